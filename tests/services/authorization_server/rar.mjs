// RFC 9396 details of the one type we know: `agentguard_tool_call`.
import { isDeepStrictEqual } from 'node:util';

import { errors } from 'oidc-provider';

const LISTS = ['actions', 'locations', 'datatypes', 'privileges'];
const TEXTS = ['type', 'identifier', 'arguments_hash'];

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// The steps of the task's intent that admitted the call, each with what it demands of the arguments.
function isSteps(value) {
  return Array.isArray(value) && value.length > 0 && value.every((one) => isObject(one) && typeof one.step === 'string'
    && Object.entries(one).every(([name, inner]) => name === 'step' || (name === 'args' && isObject(inner))));
}

// Section 5: unknown fields and wrong types are refused, never passed on. The library has checked LISTS already.
export function requireKnownMembers(detail) {
  for (const [name, value] of Object.entries(detail)) {
    const known = LISTS.includes(name)
      || (TEXTS.includes(name) && typeof value === 'string')
      || (name === 'arguments' && isObject(value))
      || (name === 'steps' && isSteps(value));
    if (!known) throw new errors.InvalidAuthorizationDetails(`the member ${name} is unknown or of the wrong type`);
  }
}

function isWithin(wanted, held) {
  return Object.keys({ ...wanted, ...held }).every((name) => {
    // A restriction that the held detail has must still be there; one that it has not may be added.
    if (!(name in held)) return true;
    if (!LISTS.includes(name)) return isDeepStrictEqual(wanted[name], held[name]);
    return Array.isArray(wanted[name]) && wanted[name].every((value) => held[name].includes(value));
  });
}

// What a new token gets: what is asked, if each entry lies within one that the old token has; all of the old, if nothing
// is asked. Otherwise leaving the parameter out would widen.
export function narrowedDetails(requested, held) {
  if (requested === undefined) return held;
  const wanted = JSON.parse(requested);
  if (held !== undefined && !wanted.every((one) => held.some((other) => isWithin(one, other)))) {
    throw new errors.InvalidAuthorizationDetails('authorization_details would widen those of the subject token');
  }
  return wanted;
}
