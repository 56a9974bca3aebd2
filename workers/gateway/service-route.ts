/**
 * A route for services: its input and replies as schemas, and the scopes of which the caller's key must have one. The table of all of
 * them (service-routes.ts) is what is served, described in /openapi.json, and tried key by key in the tests.
 *
 * Every call is authenticated, then its scopes are checked, then its body is read: who may not do a thing learns nothing else.
 */

import type { Context } from "hono";
import type * as v from "valibot";
import {
  type App,
  type AppEnv,
  type Authenticator,
  type Caller,
  describeInput,
  type InputSchema,
  readInput,
  requireScope,
  type Scope,
} from "../../lib/http/index.ts";

export type Verb = "get" | "post" | "put" | "patch" | "delete";

export interface ServiceCall<P> {
  readonly c: Context<AppEnv>;
  readonly caller: Caller;
  readonly params: P;
}

export interface ServiceRoute {
  readonly verb: Verb;
  readonly path: string;
  readonly summary: string;
  /** One of them is enough. By the parameters of the path. */
  scopes(path: Readonly<Record<string, string>>): readonly Scope[];
  readonly input: InputSchema;
  readonly replies: Readonly<Record<number, v.GenericSchema | undefined>>;
  mount(app: App, auth: Authenticator): void;
}

interface RouteParts<S extends InputSchema> {
  readonly summary: string;
  readonly scopes: ServiceRoute["scopes"];
  readonly input: S;
  readonly replies: ServiceRoute["replies"];
  readonly bodyBytesMax?: number;
}

/** `POST /v1/topics/:topic/messages` and what is done there. */
export function serviceRoute<const S extends InputSchema>(
  verb: Verb,
  path: string,
  { summary, scopes, input, replies, bodyBytesMax }: RouteParts<S>,
  handle: (call: ServiceCall<v.InferOutput<S>>) => Promise<Response> | Response,
): ServiceRoute {
  const names = [...path.matchAll(/:(\w+)/g)].map(([, name]) => name!);
  return {
    verb,
    path,
    summary,
    scopes,
    input,
    replies,
    mount(app, auth) {
      app.on(
        verb.toUpperCase(),
        path,
        describeInput({ method: verb, summary, input, path: names, replies }),
        async (c) => {
          const caller = await auth.authenticate(c.req.raw.headers);
          requireScope(caller, ...scopes(c.req.param()));
          const source = { path: names, ...(bodyBytesMax === undefined ? {} : { bodyBytesMax }) };
          return handle({ c, caller, params: await readInput(c, input, source) });
        },
      );
    },
  };
}

export const admin = (): readonly Scope[] => ["admin"];
/** Of the topic in the path. */
export const publisher = ({ topic }: Readonly<Record<string, string>>): readonly Scope[] => [`publish:${topic}`];
export const consumer = ({ topic }: Readonly<Record<string, string>>): readonly Scope[] => [`consume:${topic}`];
/** What a group's own service may do with it, an operator may too. */
export const consumerOrAdmin = (path: Readonly<Record<string, string>>): readonly Scope[] => [
  ...consumer(path),
  "admin",
];
