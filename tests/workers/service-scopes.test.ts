/**
 * Who may call what: every route for services, from the table that serves them, with every kind of caller. A new route is tried without
 * a word here, and one outside the table is found.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { createBroadcasts } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import type { Logic } from "../../workers/gateway/methods.ts";
import { createServiceKeyStore } from "../../workers/gateway/service-key-store.ts";
import type { ServiceRoute } from "../../workers/gateway/service-route.ts";
import { createServiceRoutes } from "../../workers/gateway/service-routes.ts";
import { createTails } from "../../workers/gateway/service-tail.ts";
import { openTestStore } from "../support/redis.ts";
import { openTestServices, type TestServices } from "../support/services.ts";

const OWN = { topic: "matrix", group: "g", id: "01JDG3S8QK7XN4P200A1-0", key: "k", producerGroup: "p" };
/** Every kind of key: one scope each. */
const KINDS = [
  ...["chat", "broadcast", "admin", "publish:*", "consume:*"],
  ...["publish:matrix", "consume:matrix", "publish:other", "consume:other", "publish:matri", "consume:matrix2"],
];

/** The table, made of parts that are never called. */
await using store = await openTestStore("svc-scopes-table");
const { redis, keys, metrics } = store;
const queue = openQueue({ redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" });
const table: readonly ServiceRoute[] = createServiceRoutes({
  queue,
  tails: createTails(queue, silentLog),
  serviceKeys: createServiceKeyStore({ commands: redis.commands, keys, clock: systemClock, serviceKey: "sk_root_x" }),
  logic: {} as Logic,
  clock: systemClock,
  broadcasts: createBroadcasts(redis.commands, keys, systemClock),
  allowPrivate: false,
  checkSecretOf: () => "",
});

let services: TestServices;
const authorizations = new Map<string, string>();
beforeAll(async () => {
  services = await openTestServices("svc-scopes");
  await services.call("PUT", "/v1/topics/matrix", {});
  for (const kind of KINDS) authorizations.set(kind, await services.keyWith(kind));
});
afterAll(() => services[Symbol.asyncDispose]());

function pathOf({ path }: ServiceRoute): string {
  return path.replaceAll(/:(\w+)/g, (_, name: keyof typeof OWN) => OWN[name]);
}

async function call(route: ServiceRoute, authorization: string | null): Promise<{ status: number; code: string }> {
  const body = route.verb === "get" || route.verb === "delete" ? undefined : {};
  // A stream that begins is an answer; nobody reads it to its end.
  const ending = new AbortController();
  const response = await fetch(services.chat.url + pathOf(route), {
    method: route.verb.toUpperCase(),
    headers: {
      ...(authorization === null ? {} : { authorization }),
      ...(body ? { "content-type": "application/json" } : {}),
    },
    ...(body ? { body: JSON.stringify(body) } : {}),
    signal: ending.signal,
  });
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  const code = isProblem ? ((await response.json()) as { code: string }).code : "";
  if (!isProblem) ending.abort();
  return { status: response.status, code };
}

/** By the words of the protocol, not by the code that is under test. */
function isEnough(kind: string, wanted: readonly string[]): boolean {
  return wanted.some((scope) => {
    if (scope === kind) return true;
    const [act, topic] = scope.split(":");
    if (topic === undefined) return false;
    return kind === `${act}:*` || (topic === "" && kind.startsWith(`${act}:`));
  });
}

describe.each(table.map((route) => [`${route.verb.toUpperCase()} ${route.path}`, route] as const))("%s", (_, route) => {
  test("without credentials, with garbage, as a user", async () => {
    expect(await call(route, null)).toEqual({ status: 401, code: "UNAUTHENTICATED" });
    expect(await call(route, "Bearer nonsense")).toEqual({ status: 401, code: "UNAUTHENTICATED" });
    expect(await call(route, `Bearer sk_root_${"a".repeat(43)}`)).toEqual({ status: 401, code: "UNAUTHENTICATED" });
    expect(await call(route, await services.userToken())).toEqual({ status: 403, code: "FORBIDDEN" });
  });

  test("with a key of each scope alone", async () => {
    const wanted = route.scopes(OWN);
    expect(wanted.length).toBeGreaterThan(0);
    for (const kind of KINDS) {
      const { status, code } = await call(route, authorizations.get(kind)!);
      const isRefused = status === 401 || code === "FORBIDDEN";
      expect([kind, isRefused]).toEqual([kind, !isEnough(kind, wanted)]);
      expect(status).toBeLessThan(500);
    }
  });
});

test("every route under /v1 is a user's, or in the table", async () => {
  const { body } = await services.call("GET", "/openapi.json");
  const described = Object.entries(body.paths as Record<string, object>)
    .flatMap(([path, verbs]) => Object.keys(verbs).map((verb) => `${verb} ${path}`))
    .filter((route) => route.includes(" /v1/"));
  const ofServices = table.map(({ verb, path }) => `${verb} ${path.replaceAll(/:(\w+)/g, "{$1}")}`);
  for (const route of ofServices) expect(described).toContain(route);
  const others = described.filter((route) => !ofServices.includes(route));
  const users = /^\w+ \/v1\/(conversations|sync|reminders|scheduled|me|search|push|users|tokens)(\/|$)/;
  expect(others.filter((route) => !users.test(route))).toEqual([]);
});
