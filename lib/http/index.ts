/**
 * HTTP at the edge: the app with its errors (app.ts), who calls (auth.ts) and may do what (scopes.ts), inputs against schemas
 * (validate.ts), and how often (limiter.ts). Nothing here knows the chat.
 *
 *   const auth = await createAuthenticator({ jwtSecret, serviceKey, clock });
 *   app.post("/v1/things/:thing", describeInput({ … }), async (c) => {
 *     const user = actingUser(await auth.authenticate(c.req.raw.headers));
 *     const params = await readInput(c, ThingParams, { path: ["thing"] });
 *     …
 *   });
 */

export { type App, type AppEnv, createApp, problem } from "./app.ts";
export {
  type Authenticator,
  actingUser,
  type Caller,
  createAuthenticator,
  isExpired,
  type ServiceKey,
  type ServicePass,
  serviceKeyDigest,
  type TokenClaims,
} from "./auth.ts";
export { memberText, memberTexts } from "./json-text.ts";
export { createLimiter, type Limiter } from "./limiter.ts";
export { hasScope, requireScope, type Scope, ScopeSchema } from "./scopes.ts";
export {
  CHAT_BODY_BYTES_MAX,
  describeInput,
  type InputSchema,
  invalid,
  ProblemSchema,
  parseJson,
  readInput,
  readJsonText,
  validate,
} from "./validate.ts";
