// A real authorization server for the tests: oidc-provider (an OpenID-certified library) plus what it leaves to custom
// grants. `node server.mjs SETTINGS.json`; listens on a free port of 127.0.0.1 and writes its issuer to `settings.ready`.
//
// What it offers
//   metadata             RFC 8414 and OpenID discovery, both with the same issuer
//   client authentication  private_key_jwt, ES256, with the issuer as the assertion's only audience (RFC 7523bis)
//   client_credentials, token exchange (token_exchange.mjs), ID-JAG and the jwt-bearer grant (id_jag.mjs)
//   RFC 9396             authorization_details of type `agentguard_tool_call`
//   RFC 9449             DPoP where a proof is sent; a nonce is required where `settings.dpop_nonce` says so
//   RFC 7009, RFC 7662   revocation and introspection of opaque tokens; structured ones: `unsupported_token_type`
//   CIBA                 poll mode; who is asked answers by a test route (ciba.mjs)
//   /test/...            what only tests may do (test_routes.mjs)
//
// Resources decide the form of a token (targets.mjs). Scopes: any is known, `admin:*` is granted to nobody.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';

import { calculateJwkThumbprint, exportJWK, generateKeyPair } from 'jose';
import { Provider, errors } from 'oidc-provider';

import { CIBA, newBackchannel } from './ciba.mjs';
import { JWT_BEARER, registerJwtBearer } from './id_jag.mjs';
import { memoryAdapter } from './memory.mjs';
import { requireKnownMembers } from './rar.mjs';
import { resourceServerInfo } from './targets.mjs';
import { testRoutes } from './test_routes.mjs';
import { TOKEN_EXCHANGE, registerTokenExchange } from './token_exchange.mjs';

const GRANTS = ['client_credentials', TOKEN_EXCHANGE, JWT_BEARER, CIBA];

const settings = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));

async function newSigningKey() {
  const { privateKey } = await generateKeyPair('ES256', { extractable: true });
  const jwk = await exportJWK(privateKey);
  return { ...jwk, kid: await calculateJwkThumbprint(jwk), use: 'sig', alg: 'ES256' };
}

function clients() {
  const agents = settings.clients.map(({ client_id, jwk }) => ({
    client_id,
    jwks: { keys: [jwk] },
    grant_types: GRANTS,
    redirect_uris: [],
    response_types: [],
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: 'ES256',
    authorization_details_types: ['agentguard_tool_call'],
    backchannel_token_delivery_mode: 'poll',
  }));
  const verifier = {
    ...settings.resource_server,
    grant_types: [],
    redirect_uris: [],
    response_types: [],
    token_endpoint_auth_method: 'client_secret_basic',
  };
  return [...agents, verifier];
}

// INVARIANT: an assertion made for another server, or for two at once, is refused; the library alone would take a list
// that holds our issuer, and the token endpoint's URL.
function requireIssuerAsOnlyAudience(ctx, claims) {
  const audience = Array.isArray(claims.aud) && claims.aud.length === 1 ? claims.aud[0] : claims.aud;
  if (audience !== ctx.oidc.issuer) throw new errors.InvalidClientAuth('aud must be the issuer and nothing else');
}

// RFC 7009, section 2.1: the request is refused, and the client is told.
function requireOwnToken(ctx, client, token) {
  if (client.clientId !== token.clientId) throw new errors.InvalidRequest('the token was issued to another client');
  return true;
}

function configuration(signingKey, backchannel) {
  const requestedDetails = (ctx) => JSON.parse(ctx.oidc.params.authorization_details);
  return {
    jwks: { keys: [signingKey] },
    clients: clients(),
    adapter: memoryAdapter,
    cookies: { keys: [randomBytes(16).toString('hex')] },
    clientAuthMethods: ['private_key_jwt', 'client_secret_basic'],
    enabledJWA: { clientAuthSigningAlgValues: ['ES256'], idTokenSigningAlgValues: ['ES256'], dPoPSigningAlgValues: ['ES256'] },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    assertJwtClientAuthClaimsAndHeader: requireIssuerAsOnlyAudience,
    findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
    extraTokenClaims: (ctx, token) => token.extra,
    discovery: { authorization_grant_profiles_supported: ['urn:ietf:params:oauth:grant-profile:id-jag'] },
    ttl: { AccessToken: settings.token_ttl, ClientCredentials: settings.token_ttl, IdToken: settings.token_ttl },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      ciba: backchannel.feature,
      revocation: { enabled: true, allowedPolicy: requireOwnToken },
      introspection: {
        enabled: true,
        allowedPolicy: (ctx, client, token) =>
          client.clientId === settings.resource_server.client_id || client.clientId === token.clientId,
      },
      dPoP: {
        enabled: true,
        nonceSecret: settings.dpop_nonce ? randomBytes(32) : undefined,
        requireNonce: () => settings.dpop_nonce,
      },
      resourceIndicators: {
        enabled: true,
        // Only read where authorization_details come without `resource`: `audience` names the target of an exchange too.
        defaultResource: (ctx) => ctx.oidc.params.audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource) => resourceServerInfo(resource, ctx.oidc.params.scope, settings.token_ttl),
      },
      richAuthorizationRequests: {
        enabled: true,
        types: { agentguard_tool_call: { validate: (ctx, detail) => requireKnownMembers(detail) } },
        authorizationDetailsForGrantSource: (ctx) => requestedDetails(ctx),
        authorizationDetailsForAccessToken: (ctx) => requestedDetails(ctx),
        authorizationDetailsForIntrospection: (ctx, token) => token.rar,
      },
    },
  };
}

function logErrors(provider) {
  for (const event of ['server_error', 'grant.error', 'introspection.error', 'revocation.error']) {
    provider.on(event, (ctx, error) => {
      const details = [error.message, error.error_description, error.error_detail, event === 'server_error' && error.stack];
      console.log(event, ...details.filter(Boolean));
    });
  }
}

// The port is the system's choice, so the provider is made when it is known: the issuer holds it.
const server = http.createServer();
server.listen(0, '127.0.0.1', async () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const signingKey = await newSigningKey();
  const backchannel = newBackchannel();
  const provider = new Provider(issuer, configuration(signingKey, backchannel));
  const realm = { provider, settings, signingKey, issuer, backchannel };
  provider.use(backchannel.pace);
  registerTokenExchange(realm);
  registerJwtBearer(realm);
  logErrors(provider);
  server.on('request', testRoutes(realm, provider.callback()));
  fs.writeFileSync(`${settings.ready}.new`, JSON.stringify({ issuer }));
  fs.renameSync(`${settings.ready}.new`, settings.ready);
  console.log('ready', issuer);
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
