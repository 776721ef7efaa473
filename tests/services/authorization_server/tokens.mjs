// Reading tokens of this server, and issuing new ones.
import { createLocalJWKSet, jwtVerify } from 'jose';
import { errors } from 'oidc-provider';
import validateDpop, { checkDpopReplay } from 'oidc-provider/lib/helpers/validate_dpop.js';

import { resourceServerInfo } from './targets.mjs';

export const now = () => Math.floor(Date.now() / 1000);

const isJwt = (raw) => raw.split('.').length === 3;

export function publicJwks({ signingKey: { d, ...publicKey } }) {
  return createLocalJWKSet({ keys: [publicKey] });
}

// Claims of a JWT that this server signed. `typ` is what tells an access token from an ID token.
export async function readOwnJwt(realm, raw, options) {
  const { payload, protectedHeader } = await jwtVerify(raw, publicJwks(realm), {
    issuer: realm.issuer, algorithms: ['ES256'], requiredClaims: ['sub', 'exp'], ...options,
  });
  return { ...payload, typ: protectedHeader.typ };
}

// Claims of an access token of this server, opaque or not.
export async function readAccessToken(realm, raw) {
  if (isJwt(raw)) return readOwnJwt(realm, raw, { typ: 'at+jwt' });
  const { AccessToken, ClientCredentials } = realm.provider;
  const token = (await AccessToken.find(raw)) ?? (await ClientCredentials.find(raw));
  if (!token?.isValid) throw new Error('not a token of this server, or not alive');
  const { clientId: client_id, scope, exp, rar: authorization_details } = token;
  return { ...token.extra, iss: realm.issuer, sub: token.accountId ?? client_id, client_id, scope, exp, authorization_details };
}

// A statement serves once: `jti` is a text that this issuer has not used before.
export async function requireUnused({ provider }, { iss, jti, exp }) {
  if (typeof jti !== 'string' || !jti) throw new Error('jti must be a text');
  if (!await provider.ReplayDetection.unique(iss, `statement ${jti}`, exp)) throw new Error('replayed');
}

// The thumbprint of the key whose possession the request proves, or undefined where no proof was sent.
export async function provenKey({ provider }, ctx) {
  const proof = await validateDpop(provider, ctx);
  if (proof) await checkDpopReplay(provider, ctx, proof, ctx.oidc.client.clientId);
  return proof?.thumbprint;
}

// Issue an access token. `claims` are further ones (act, tenant); `ends` is a time it must not outlive.
export async function issueAccessToken(realm, { client, sub, scope, resource, details, claims, ends, jkt, gty, ttl }) {
  const { provider, settings } = realm;
  const left = Math.min(ttl ?? settings.token_ttl, ends - now());
  if (left <= 0) throw new errors.InvalidRequest('the token that this one would come from has expired');
  const token = new provider.AccessToken({ accountId: sub, client, scope, gty, extra: claims, expiresIn: left, rar: details });
  token.resourceServer = new provider.ResourceServer(resource, resourceServerInfo(resource, scope, settings.token_ttl));
  if (jkt) token.setThumbprint('jkt', jkt);
  return { token, value: await token.save() };
}
