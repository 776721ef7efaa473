// Resources (RFC 8707) and scopes.
//   https://api.test/jwt/...     tokens are JWTs (RFC 9068): cannot be revoked or introspected here, they expire
//   https://api.test/opaque/...  tokens are opaque: can be
//   http://127.0.0.1:PORT/...    JWTs, for resource servers that tests start themselves
import { errors } from 'oidc-provider';

function formatOf(resource) {
  const url = URL.parse(resource);
  if (url?.origin === 'https://api.test' && url.pathname.startsWith('/jwt/')) return 'jwt';
  if (url?.origin === 'https://api.test' && url.pathname.startsWith('/opaque/')) return 'opaque';
  if (url?.protocol === 'http:' && url.hostname === '127.0.0.1' && !url.username && !url.password) return 'jwt';
  throw new errors.InvalidTarget('no such resource');
}

export const words = (text) => (text ? text.split(' ').filter(Boolean) : []);

const grantable = (scope) => !scope.startsWith('admin:');

export function resourceServerInfo(resource, scope, ttl) {
  const accessTokenFormat = formatOf(resource);
  const known = words(scope).filter(grantable).join(' ');
  return { scope: known, audience: resource, accessTokenTTL: ttl, accessTokenFormat, jwt: { sign: { alg: 'ES256' } } };
}

// INVARIANT: exactly one target. Rights are the product of scopes and targets, so two targets would be more than asked.
export function onlyTarget(ctx) {
  const targets = [ctx.oidc.body.resource, ctx.oidc.body.audience].flat().filter((value) => value !== undefined);
  if (targets.length !== 1) throw new errors.InvalidTarget('name exactly one resource or audience');
  if (!URL.canParse(targets[0]) || targets[0].includes('#')) {
    throw new errors.InvalidTarget('the target must be an absolute URI without fragment');
  }
  return targets[0];
}

// What is asked, if all of it is held; all that is held, if nothing is asked.
export function narrowedScope(requested, held) {
  const holds = words(held);
  const wanted = requested === undefined ? holds : words(requested);
  const more = wanted.filter((scope) => !holds.includes(scope) || !grantable(scope));
  if (more.length > 0) throw new errors.InvalidScope('the scope would widen', more.join(' '));
  return wanted.join(' ');
}
