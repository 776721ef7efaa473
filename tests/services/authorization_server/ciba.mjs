// CIBA (OpenID CIBA Core 1.0) in poll mode. The library knows no `interval` and never says `slow_down`; both are added:
//   interval   1 second
//   slow_down  in place of `authorization_pending`, where the last poll of the same question, by whomever, was less than
//              that ago (section 11); an answer that is there is given, however fast it is asked for
// A login hint is the `sub`; one that begins with `nobody` is unknown. Nobody's phone rings: tests answer by /test/ciba.
import { errors } from 'oidc-provider';

export const CIBA = 'urn:openid:params:grant-type:ciba';
const INTERVAL = 1;
const BINDING_MESSAGE = /^[A-Za-z0-9 ._-]{1,64}$/;

export function newBackchannel() {
  const asked = new Map();

  const feature = {
    enabled: true,
    deliveryModes: ['poll'],
    processLoginHint: async (ctx, hint) => (hint.startsWith('nobody') ? undefined : hint),
    validateRequestContext: async () => {},
    verifyUserCode: async () => {},
    validateBindingMessage: async (ctx, message) => {
      if (message !== undefined && !BINDING_MESSAGE.test(message)) throw new errors.InvalidBindingMessage('not shown on a phone');
    },
    triggerAuthenticationDevice: async (ctx, request) => {
      const { auth_req_id, expires_in } = ctx.body;
      const { login_hint, binding_message, requested_expiry, scope } = ctx.oidc.params;
      asked.set(auth_req_id, {
        auth_req_id, expires_in, login_hint, binding_message, requested_expiry, scope,
        client_id: request.clientId, polls: [],
      });
    },
  };

  // After the library has answered.
  async function pace(ctx, next) {
    await next();
    if (ctx.oidc?.route === 'backchannel_authentication' && ctx.status === 200) ctx.body = { ...ctx.body, interval: INTERVAL };
    if (ctx.oidc?.route !== 'token' || ctx.oidc.params?.grant_type !== CIBA) return;
    const question = asked.get(ctx.oidc.params.auth_req_id);
    if (!question || question.client_id !== ctx.oidc.client?.clientId) return;
    const at = Date.now();
    const tooFast = question.polls.length > 0 && at - question.polls.at(-1).at < INTERVAL * 1000;
    if (tooFast && ctx.body.error === 'authorization_pending') ctx.body = { error: 'slow_down' };
    question.polls.push({ at, said: ctx.body.error ?? 'tokens' });
  }

  // As if the person had pressed a button.
  async function press(provider, { auth_req_id, action }) {
    const request = await provider.BackchannelAuthenticationRequest.find(auth_req_id);
    if (!request) throw new Error('no such question, or it has expired');
    if (action === 'deny') {
      await provider.backchannelResult(request, new errors.AccessDenied('the person said no'));
      return {};
    }
    if (action !== 'approve') throw new Error('approve or deny');
    const grant = new provider.Grant({ accountId: request.accountId, clientId: request.clientId });
    grant.addOIDCScope('openid');
    await provider.backchannelResult(request, await grant.save());
    return {};
  }

  const list = (query) => [...asked.values()].filter(({ login_hint }) => !query.has('login_hint') || query.get('login_hint') === login_hint);
  return { feature, pace, press, list };
}
