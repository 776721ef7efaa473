// RFC 8693 token exchange.
//   subject_token  an access token, ID token or JWT of this server
//   actor_token    an access token of this server, or (actor_token_type jwt) a statement signed with the client's own key:
//                  iss = client_id, sub = the actor, aud = our issuer, exp, jti, and `act` for earlier actors
//   the new token  act = the actor, its earlier actors, and beneath those whatever act the subject token had; without
//                  actor_token the client itself is the actor. It never lives longer, and never may more.
import { createLocalJWKSet, jwtVerify } from 'jose';
import { errors } from 'oidc-provider';

import { issueIdJag } from './id_jag.mjs';
import { narrowedDetails } from './rar.mjs';
import { narrowedScope, onlyTarget } from './targets.mjs';
import { issueAccessToken, provenKey, readAccessToken, readOwnJwt, requireUnused } from './tokens.mjs';

export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const TYPE = 'urn:ietf:params:oauth:token-type:';
export const [ACCESS_TOKEN, ID_TOKEN, JWT, ID_JAG] = ['access_token', 'id_token', 'jwt', 'id-jag'].map((name) => TYPE + name);
const MAX_ACTORS = 16;
const PARAMETERS = ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'audience', 'resource', 'scope',
  'requested_token_type', 'authorization_details'];

// Section 2.2.2: a subject or actor token that is not acceptable is an `invalid_request`. Why is for the log only.
async function readToken(name, read) {
  try {
    return await read();
  } catch (cause) {
    throw new errors.InvalidRequest(`${name} is not acceptable`, undefined, { cause });
  }
}

function readSubject(realm, ctx) {
  const { subject_token: raw, subject_token_type: type } = ctx.oidc.params;
  const readers = {
    [ACCESS_TOKEN]: () => readAccessToken(realm, raw),
    [ID_TOKEN]: () => readOwnJwt(realm, raw, { typ: 'JWT', audience: ctx.oidc.client.clientId }),
    [JWT]: () => readOwnJwt(realm, raw),
  };
  if (!raw || !Object.hasOwn(readers, type ?? '')) {
    throw new errors.InvalidRequest('subject_token and a subject_token_type of access_token, id_token or jwt are required');
  }
  return readToken('subject_token', readers[type]);
}

async function readActorStatement(realm, ctx, raw) {
  const { clientId } = ctx.oidc.client;
  const { jwk } = realm.settings.clients.find(({ client_id }) => client_id === clientId);
  const { payload } = await jwtVerify(raw, createLocalJWKSet({ keys: [jwk] }), {
    issuer: clientId, audience: realm.issuer, algorithms: ['ES256'], requiredClaims: ['sub', 'exp', 'jti'],
  });
  if (Array.isArray(payload.aud)) throw new Error('aud must be the issuer and nothing else');
  await requireUnused(realm, payload);
  return payload;
}

async function readActor(realm, ctx) {
  const { actor_token: raw, actor_token_type: type } = ctx.oidc.params;
  if ((raw === undefined) !== (type === undefined)) {
    throw new errors.InvalidRequest('actor_token and actor_token_type go together');
  }
  if (raw === undefined) return { iss: realm.issuer, sub: ctx.oidc.client.clientId };
  if (type === ACCESS_TOKEN) return readToken('actor_token', () => readAccessToken(realm, raw));
  if (type === JWT) return readToken('actor_token', () => readActorStatement(realm, ctx, raw));
  throw new errors.InvalidRequest('actor_token_type must be access_token or jwt');
}

// The actor outermost, the first one innermost (section 4.1).
function nest(actor, earlier, depth = 1) {
  if (depth > MAX_ACTORS || typeof actor?.sub !== 'string' || !actor.sub) {
    throw new errors.InvalidRequest(`act must be at most ${MAX_ACTORS} objects with a sub`);
  }
  const below = actor.act ?? earlier;
  return { sub: actor.sub, ...(below && { act: nest(below, actor.act && earlier, depth + 1) }) };
}

// Section 4.4: every member of may_act must be the actor's.
function checkMayAct(subject, actor) {
  if (subject.may_act === undefined) return;
  const { sub, iss, client_id } = actor;
  const allowed = Object.entries(subject.may_act).every(([name, value]) => ({ sub, iss, client_id })[name] === value);
  if (!allowed) throw new errors.InvalidRequest('the subject token does not allow this actor (may_act)');
}

async function exchange(realm, ctx) {
  const { params, client } = ctx.oidc;
  const requested = params.requested_token_type ?? ACCESS_TOKEN;
  if (![ACCESS_TOKEN, JWT, ID_JAG].includes(requested)) {
    throw new errors.InvalidRequest('requested_token_type must be access_token, jwt or id-jag');
  }
  const jkt = await provenKey(realm, ctx);
  const subject = await readSubject(realm, ctx);
  const actor = await readActor(realm, ctx);
  checkMayAct(subject, actor);
  const rights = {
    client,
    sub: subject.sub,
    scope: narrowedScope(params.scope, subject.scope),
    details: narrowedDetails(params.authorization_details, subject.authorization_details),
    claims: { act: nest(actor, subject.act), ...(subject.tenant && { tenant: subject.tenant }) },
    ends: subject.exp,
    jkt,
  };
  if (requested === ID_JAG) {
    ctx.body = await issueIdJag(realm, ctx, rights, params.subject_token_type === ID_TOKEN);
    return;
  }
  const { token, value } = await issueAccessToken(realm, { ...rights, resource: onlyTarget(ctx), gty: 'token_exchange' });
  if (requested === JWT && token.format !== 'jwt') throw new errors.InvalidRequest('tokens for this resource are no JWTs');
  ctx.body = {
    access_token: value,
    issued_token_type: requested,
    token_type: token.tokenType,
    expires_in: token.expiration,
    scope: rights.scope,
    authorization_details: rights.details,
  };
}

export function registerTokenExchange(realm) {
  realm.provider.registerGrantType(TOKEN_EXCHANGE, (ctx) => exchange(realm, ctx), PARAMETERS, ['audience', 'resource']);
}
