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

interface RouteParts<S extends InputSchema, P> {
  readonly summary: string;
  readonly scopes: ServiceRoute["scopes"];
  readonly input: S;
  readonly replies: ServiceRoute["replies"];
  /** All fields of the body are optional: so is the body. */
  readonly mayLackBody?: boolean;
  /** In place of checking path, query and body against `input`. */
  readonly read?: (c: Context<AppEnv>) => Promise<P>;
}

/** `POST /v1/topics/:topic/messages` and what is done there. */
export function serviceRoute<const S extends InputSchema, P = v.InferOutput<S>>(
  verb: Verb,
  path: string,
  { summary, scopes, input, replies, mayLackBody = false, read }: RouteParts<S, P>,
  handle: (call: ServiceCall<P>) => Promise<Response> | Response,
): ServiceRoute {
  const names = [...path.matchAll(/:(\w+)/g)].map(([, name]) => name!);
  const readParams = read ?? ((c: Context<AppEnv>) => readInput(c, input, { path: names, mayLackBody }) as Promise<P>);
  return {
    verb,
    path,
    summary,
    scopes,
    input,
    replies,
    mount(app, auth) {
      const description = describeInput({ method: verb, summary, input, path: names, mayLackBody, replies });
      app.on(verb.toUpperCase(), path, description, async (c) => {
        const caller = await auth.authenticate(c.req.raw.headers);
        requireScope(caller, ...scopes(c.req.param()));
        return handle({ c, caller, params: await readParams(c) });
      });
    },
  };
}

export const admin = (): readonly Scope[] => ["admin"];
type Path = Readonly<Record<string, string>>;
/** Of the topic in the path. */
export const publisher = ({ topic = "" }: Path): readonly Scope[] => [`publish:${topic}`];
export const consumer = ({ topic = "" }: Path): readonly Scope[] => [`consume:${topic}`];
/** What a topic's or group's own service may do with it, an operator may too. */
export const publisherOrAdmin = (path: Path): readonly Scope[] => [...publisher(path), "admin"];
export const consumerOrAdmin = (path: Path): readonly Scope[] => [...consumer(path), "admin"];
