// Identity Assertion Authorization Grant (draft-ietf-oauth-identity-assertion-authz-grant), both sides.
//   1. here as identity provider: an exchange with requested_token_type id-jag and audience = a resource AS's issuer
//   2. here as resource AS: the jwt-bearer grant (RFC 7523) with an ID-JAG whose aud is our issuer
// INVARIANT: no server takes an ID-JAG of its own; each of the two test servers trusts the other one.
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';

import { SignJWT, createRemoteJWKSet, decodeJwt, importJWK, jwtVerify } from 'jose';
import { errors } from 'oidc-provider';

import { narrowedDetails } from './rar.mjs';
import { narrowedScope, onlyTarget } from './targets.mjs';
import { issueAccessToken, now, provenKey, requireUnused } from './tokens.mjs';

export const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const TYP = 'oauth-id-jag+jwt';
const REQUIRED = ['iss', 'sub', 'aud', 'client_id', 'jti', 'exp', 'iat'];

function peers(realm) {
  return realm.settings.peers.filter(fs.existsSync).map((file) => JSON.parse(fs.readFileSync(file, 'utf8')).issuer);
}

function targets(realm, ctx) {
  const [audience, ...more] = [ctx.oidc.body.audience].flat();
  const resources = [ctx.oidc.body.resource].flat().filter((value) => value !== undefined);
  if (more.length > 0 || resources.length > 1 || !peers(realm).includes(audience)) {
    throw new errors.InvalidTarget('audience must be the issuer of one resource authorization server that is known here');
  }
  return { audience, resource: resources[0] };
}

export async function issueIdJag(realm, ctx, rights, fromIdToken) {
  if (!fromIdToken) throw new errors.InvalidRequest('an ID-JAG is made from an ID token');
  const { audience, resource } = targets(realm, ctx);
  const ends = Math.min(now() + realm.settings.token_ttl, rights.ends);
  const { scope, details: authorization_details, jkt, claims } = rights;
  const jwt = new SignJWT({
    ...claims, client_id: ctx.oidc.client.clientId, scope, resource, authorization_details, cnf: jkt && { jkt },
  });
  const assertion = await jwt
    .setProtectedHeader({ alg: 'ES256', typ: TYP, kid: realm.signingKey.kid })
    .setIssuer(realm.issuer).setSubject(rights.sub).setAudience(audience)
    .setJti(randomUUID()).setIssuedAt().setExpirationTime(ends)
    .sign(await importJWK(realm.signingKey, 'ES256'));
  return {
    access_token: assertion,
    issued_token_type: 'urn:ietf:params:oauth:token-type:id-jag',
    token_type: 'N_A',
    expires_in: ends - now(),
    scope,
    authorization_details,
  };
}

async function readAssertion(realm, ctx, raw) {
  const { iss } = decodeJwt(raw);
  if (!peers(realm).includes(iss)) throw new Error('the assertion is not of an identity provider that is trusted here');
  const { payload } = await jwtVerify(raw, createRemoteJWKSet(new URL(`${iss}/jwks`)), {
    issuer: iss, audience: realm.issuer, typ: TYP, algorithms: ['ES256'], requiredClaims: REQUIRED,
  });
  if (typeof payload.aud !== 'string') throw new Error('aud must be our issuer and nothing else');
  if (payload.client_id !== ctx.oidc.client.clientId) throw new Error('the assertion is for another client');
  await requireUnused(realm, payload);
  return payload;
}

async function acceptIdJag(realm, ctx) {
  const { params, client } = ctx.oidc;
  const jkt = await provenKey(realm, ctx);
  if (!params.assertion) throw new errors.InvalidRequest('assertion is required');
  const grant = await readAssertion(realm, ctx, params.assertion).catch((cause) => {
    throw new errors.InvalidGrant({ cause });
  });
  if (grant.cnf?.jkt !== undefined && grant.cnf.jkt !== jkt) throw new errors.InvalidGrant('proof of the bound key is missing');
  const resource = grant.resource ?? onlyTarget(ctx);
  if ([ctx.oidc.body.resource ?? []].flat().some((asked) => asked !== resource)) throw new errors.InvalidTarget();
  const { act, tenant } = grant;
  const scope = narrowedScope(params.scope, grant.scope);
  const details = narrowedDetails(params.authorization_details, grant.authorization_details);
  // Times in the assertion bound when it may be used, not how long the token lives: that is this server's own matter.
  const ends = now() + realm.settings.token_ttl;
  const { token, value } = await issueAccessToken(realm, {
    client, sub: grant.sub, scope, resource, details, claims: { act, ...(tenant && { tenant }) }, ends, jkt, gty: 'jwt_bearer',
  });
  ctx.body = {
    access_token: value, token_type: token.tokenType, expires_in: token.expiration, scope, authorization_details: details,
  };
}

export function registerJwtBearer(realm) {
  const parameters = ['assertion', 'scope', 'resource', 'authorization_details'];
  realm.provider.registerGrantType(JWT_BEARER, (ctx) => acceptIdJag(realm, ctx), parameters, ['resource']);
}
