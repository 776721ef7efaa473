// Routes that only a test server may have. JSON in, JSON out.
//   POST /test/tokens    mint a token as if the user had logged in:
//                        {type: "access_token"|"id_token", sub, client_id, scope?, resource?, tenant?, may_act?,
//                         authorization_details?, act?, ttl? (600 s)} -> {token, token_type (a URN), expires_in}
//   GET  /test/live      tokens alive now: opaque ones neither revoked nor expired, JWTs not expired; without those that
//                        /test/tokens minted. ?client_id= and ?sub= filter. {count, tokens: [...]}
//   GET  /test/requests  {grants: {GRANT: {success, error}}, paths: {"/token 200": n}}
//   POST /test/fault     {path: "/token", delay_ms?, status?, headers?, times?}: the next `times` (1) requests to the path
//                        wait and then go on, or are answered with that status and do nothing
//   GET  /test/ciba      questions to people, oldest first, with every poll: ?login_hint= filters. {questions: [...]}
//   POST /test/ciba      {auth_req_id, action: "approve"|"deny"}: what the person presses
//   POST /test/reset     forget counts and faults; what is alive stays
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

import { SignJWT, importJWK } from 'jose';

import { ACCESS_TOKEN, ID_TOKEN } from './token_exchange.mjs';
import { issueAccessToken, now } from './tokens.mjs';

const MINTED = 'test';

async function readJson(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return parts.length > 0 ? JSON.parse(Buffer.concat(parts).toString('utf8')) : {};
}

function answer(response, status, body, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
}

async function mint(realm, { type, client_id, sub = 'alice', scope = '', ttl = 600, ...more }) {
  const { resource = 'https://api.test/jwt/app', authorization_details, tenant, may_act, act } = more;
  const claims = JSON.parse(JSON.stringify({ tenant, may_act, act })); // without what is undefined
  if (type === 'id_token') {
    const jwt = new SignJWT({ ...claims, scope, auth_time: now() }).setProtectedHeader({ alg: 'ES256', typ: 'JWT', kid: realm.signingKey.kid });
    jwt.setIssuer(realm.issuer).setSubject(sub).setAudience(client_id).setIssuedAt().setExpirationTime(now() + ttl);
    return { token: await jwt.sign(await importJWK(realm.signingKey, 'ES256')), token_type: ID_TOKEN, expires_in: ttl };
  }
  const client = await realm.provider.Client.find(client_id);
  const { value } = await issueAccessToken(realm, {
    client, sub, scope, resource, details: authorization_details, claims, ends: now() + ttl, ttl, gty: MINTED,
  });
  return { token: value, token_type: ACCESS_TOKEN, expires_in: ttl };
}

// Every access token that was issued, whatever its form. An opaque token's id is the token, so a hash stands for it.
function watchTokens(provider) {
  const issued = new Map();
  const nameOf = (token) => (token.format === 'jwt' ? token.jti : createHash('sha256').update(token.jti).digest('hex'));
  for (const kind of ['access_token', 'client_credentials']) {
    for (const event of ['saved', 'issued']) {
      provider.on(`${kind}.${event}`, (token) => {
        const { clientId: client_id, accountId: sub = client_id, scope = '', format, aud, gty: grant = kind, extra } = token;
        issued.set(nameOf(token), { client_id, sub, scope, aud, format, grant, act: extra?.act, exp: now() + token.expiration });
      });
    }
    provider.on(`${kind}.destroyed`, (token) => issued.delete(createHash('sha256').update(token.jti).digest('hex')));
  }
  return (query) => {
    for (const [id, { exp }] of issued) if (exp <= now()) issued.delete(id);
    const wanted = ([, token]) => token.grant !== MINTED
      && ['client_id', 'sub'].every((name) => !query.has(name) || query.get(name) === token[name]);
    return [...issued].filter(wanted).map(([id, token]) => ({ id, ...token }));
  };
}

export function testRoutes(realm, next) {
  const { provider } = realm;
  const live = watchTokens(provider);
  let counts = { grants: {}, paths: {} };
  let faults = [];

  const add = (table, key) => { table[key] = (table[key] ?? 0) + 1; };
  for (const outcome of ['success', 'error']) {
    provider.on(`grant.${outcome}`, (ctx) => {
      add(counts.grants[ctx.oidc.params?.grant_type ?? 'unknown'] ??= { success: 0, error: 0 }, outcome);
    });
  }

  const routes = {
    'POST /test/tokens': async (request) => mint(realm, await readJson(request)),
    'GET /test/live': async (request, url) => { const tokens = live(url.searchParams); return { count: tokens.length, tokens }; },
    'GET /test/requests': async () => counts,
    'POST /test/fault': async (request) => { faults.push({ path: '/token', times: 1, ...await readJson(request) }); return {}; },
    'GET /test/ciba': async (request, url) => ({ questions: realm.backchannel.list(url.searchParams) }),
    'POST /test/ciba': async (request) => realm.backchannel.press(provider, await readJson(request)),
    'POST /test/reset': async () => { counts = { grants: {}, paths: {} }; faults = []; return {}; },
  };

  async function fault(path, response) {
    const found = faults.find((one) => one.path === path && one.times > 0);
    if (!found) return false;
    found.times -= 1;
    if (found.delay_ms) await sleep(found.delay_ms);
    if (found.status) answer(response, found.status, { error: 'temporarily_unavailable' }, found.headers);
    return found.status !== undefined;
  }

  return async (request, response) => {
    const url = new URL(request.url, realm.issuer);
    const route = routes[`${request.method} ${url.pathname}`];
    if (route) {
      await route(request, url).then((body) => answer(response, 200, body), (error) => answer(response, 400, { error: String(error) }));
      return;
    }
    response.on('finish', () => add(counts.paths, `${url.pathname} ${response.statusCode}`));
    if (!await fault(url.pathname, response)) next(request, response);
  };
}
