/**
 * Who may call what, by HTTP and by WebSocket: every route of the users' half and every method of the socket, by every kind of
 * caller. Generated from the tables that serve them (user-routes.ts, methods.ts); one without a row here fails.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { methods, webSocketMethods } from "../../workers/gateway/methods.ts";
import { USER_ROUTES, type UserRoute } from "../../workers/gateway/user-routes.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import type { ChatClient } from "../support/chat-client.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

/** Of a group: its owner, an admin, a member, one who is muted, one who was kicked out, and one who never was in it. */
const ACTORS = ["owner", "admin", "member", "muted", "kicked", "stranger"] as const;
type Actor = (typeof ACTORS)[number];
type Outcome = "ok" | "FORBIDDEN" | "MUTED" | "NOT_MEMBER" | "NOT_FOUND";

interface Stage {
  readonly conversation: string;
  readonly actor: Actor;
  /** A message of the actor's own (of the stranger: there is none, so another's), and one of a member's. */
  readonly own: number;
  readonly foreign: number;
}

interface Row {
  readonly method: unknown;
  readonly what: string;
  readonly params: (stage: Stage) => Record<string, unknown>;
  readonly outcomes: Readonly<Record<Actor, Outcome>>;
}

const outcomes = (...list: Outcome[]) =>
  Object.fromEntries(ACTORS.map((actor, i) => [actor, list[i]!])) as Record<Actor, Outcome>;

const ok = "ok";
const ANYBODY = outcomes(ok, ok, ok, ok, ok, ok);
const MEMBERS = outcomes(ok, ok, ok, ok, "NOT_MEMBER", "NOT_MEMBER");
const SPEAKERS = outcomes(ok, ok, ok, "MUTED", "NOT_MEMBER", "NOT_MEMBER");
const STAFF = outcomes(ok, ok, "FORBIDDEN", "FORBIDDEN", "NOT_MEMBER", "NOT_MEMBER");
const OWNER = outcomes(ok, "FORBIDDEN", "FORBIDDEN", "FORBIDDEN", "NOT_MEMBER", "NOT_MEMBER");
const NOBODY = outcomes("FORBIDDEN", "FORBIDDEN", "FORBIDDEN", "MUTED", "NOT_MEMBER", "NOT_MEMBER");

const here = ({ conversation }: Stage) => ({ conversation });
const onSocket = (name: string) => webSocketMethods.get(name);
let fresh = 0;
const LATER = Date.now() + 3_600_000;

const ROWS: readonly Row[] = [
  {
    method: methods.create,
    what: "a group of one's own",
    params: () => ({ type: "group", members: [] }),
    outcomes: ANYBODY,
  },
  { method: methods.list, what: "one's own", params: () => ({}), outcomes: ANYBODY },
  { method: methods.get, what: "it", params: here, outcomes: MEMBERS },
  { method: methods.update, what: "its title", params: (stage) => ({ ...here(stage), title: "new" }), outcomes: STAFF },
  { method: methods.update, what: "who joins", params: (stage) => ({ ...here(stage), join: "open" }), outcomes: STAFF },
  { method: methods.dissolve, what: "it", params: here, outcomes: OWNER },
  {
    method: methods.muteConversation,
    what: "for oneself",
    params: (stage) => ({ ...here(stage), until: 0 }),
    outcomes: MEMBERS,
  },
  {
    method: methods.addMembers,
    what: "another",
    params: (stage) => ({ ...here(stage), users: ["new"] }),
    outcomes: MEMBERS,
  },
  {
    method: methods.addMembers,
    what: "oneself",
    params: (stage) => ({ ...here(stage), users: [stage.actor] }),
    outcomes: MEMBERS,
  },
  {
    method: methods.removeMember,
    what: "a member",
    params: (stage) => ({ ...here(stage), user: "tom" }),
    outcomes: STAFF,
  },
  {
    method: methods.removeMember,
    what: "the owner",
    params: (stage) => ({ ...here(stage), user: "owner" }),
    outcomes: outcomes("FORBIDDEN", "FORBIDDEN", "FORBIDDEN", "FORBIDDEN", "NOT_MEMBER", "NOT_MEMBER"),
  },
  {
    method: methods.removeMember,
    what: "oneself",
    params: (stage) => ({ ...here(stage), user: stage.actor }),
    outcomes: outcomes("FORBIDDEN", ok, ok, ok, "NOT_MEMBER", "NOT_MEMBER"),
  },
  {
    method: methods.updateMember,
    what: "a member's mute",
    params: (stage) => ({ ...here(stage), user: "tom", mutedUntil: Date.now() + 60_000 }),
    outcomes: STAFF,
  },
  {
    method: methods.updateMember,
    what: "one's own role",
    params: (stage) => ({ ...here(stage), user: stage.actor, role: "admin" }),
    outcomes: outcomes("FORBIDDEN", "FORBIDDEN", "FORBIDDEN", "FORBIDDEN", "NOT_MEMBER", "NOT_MEMBER"),
  },
  {
    method: methods.updateMember,
    what: "the owner",
    params: (stage) => ({ ...here(stage), user: "tom", role: "owner" }),
    outcomes: OWNER,
  },
  {
    method: methods.send,
    what: "a message",
    params: (stage) => ({ ...here(stage), clientId: `c${++fresh}`, body: { text: "hi" } }),
    outcomes: SPEAKERS,
  },
  {
    method: methods.send,
    what: "a message for later",
    params: (stage) => ({ ...here(stage), clientId: `c${++fresh}`, body: { text: "hi" }, deliverAt: LATER }),
    outcomes: SPEAKERS,
  },
  { method: methods.listScheduled, what: "one's own", params: () => ({}), outcomes: ANYBODY },
  { method: methods.moveScheduled, what: "none", params: () => ({ id: "none", at: LATER }), outcomes: ANYBODY },
  { method: methods.cancelScheduled, what: "none", params: () => ({ id: "none" }), outcomes: ANYBODY },
  {
    method: methods.createReminder,
    what: "of a message",
    params: (stage) => ({ ...here(stage), seq: stage.foreign, at: LATER, text: "look" }),
    outcomes: MEMBERS,
  },
  { method: methods.createReminder, what: "of nothing", params: () => ({ at: LATER, text: "tea" }), outcomes: ANYBODY },
  { method: methods.listReminders, what: "one's own", params: () => ({}), outcomes: ANYBODY },
  { method: methods.moveReminder, what: "none", params: () => ({ id: "none", at: LATER }), outcomes: ANYBODY },
  { method: methods.snoozeReminder, what: "none", params: () => ({ id: "none", at: LATER }), outcomes: ANYBODY },
  { method: methods.cancelReminder, what: "none", params: () => ({ id: "none" }), outcomes: ANYBODY },
  { method: methods.history, what: "messages", params: here, outcomes: MEMBERS },
  { method: methods.search, what: "all one's own", params: () => ({ q: "hi" }), outcomes: ANYBODY },
  { method: methods.search, what: "it", params: (stage) => ({ ...here(stage), q: "hi" }), outcomes: MEMBERS },
  {
    method: methods.edit,
    what: "one's own",
    params: (stage) => ({ ...here(stage), seq: stage.own, body: { text: "new" } }),
    outcomes: SPEAKERS,
  },
  {
    method: methods.edit,
    what: "another's",
    params: (stage) => ({ ...here(stage), seq: stage.foreign, body: { text: "new" } }),
    outcomes: NOBODY,
  },
  {
    method: methods.recall,
    what: "one's own",
    params: (stage) => ({ ...here(stage), seq: stage.own }),
    outcomes: MEMBERS,
  },
  {
    method: methods.recall,
    what: "another's",
    params: (stage) => ({ ...here(stage), seq: stage.foreign }),
    outcomes: STAFF,
  },
  {
    method: methods.recall,
    what: "another's for oneself",
    params: (stage) => ({ ...here(stage), seq: stage.foreign, for: "me" }),
    outcomes: MEMBERS,
  },
  ...[methods.addReaction, methods.removeReaction, onSocket("message.react")].map((method) => ({
    method,
    what: "a reaction",
    params: (stage: Stage) => ({ ...here(stage), seq: stage.foreign, emoji: "ok" }),
    outcomes: SPEAKERS,
  })),
  {
    method: methods.deliver,
    what: "a cursor",
    params: (stage) => ({ ...here(stage), seq: stage.foreign }),
    outcomes: MEMBERS,
  },
  {
    method: methods.read,
    what: "a cursor",
    params: (stage) => ({ ...here(stage), seq: stage.foreign }),
    outcomes: MEMBERS,
  },
  { method: methods.receipts, what: "everybody's", params: here, outcomes: MEMBERS },
  {
    method: methods.sync,
    what: "what one is in",
    params: (stage) => ({ cursors: [{ ...here(stage), epoch: "e", seq: 0 }] }),
    outcomes: ANYBODY,
  },
  { method: onSocket("typing"), what: "seen", params: (stage) => ({ ...here(stage), on: true }), outcomes: SPEAKERS },
  {
    method: onSocket("presence.subscribe"),
    what: "of anybody",
    params: () => ({ users: ["owner"] }),
    outcomes: ANYBODY,
  },
  {
    method: onSocket("presence.unsubscribe"),
    what: "of anybody",
    params: () => ({ users: ["owner"] }),
    outcomes: ANYBODY,
  },
  { method: methods.listDevices, what: "one's own", params: () => ({}), outcomes: ANYBODY },
  { method: methods.removeDevice, what: "one's own", params: () => ({ device: "phone" }), outcomes: ANYBODY },
  {
    method: methods.registerPush,
    what: "one's own device",
    // A name of the internet: nobody is called.
    params: () => ({ device: "phone", kind: "webhook", url: "https://push.example.com/hook" }),
    outcomes: ANYBODY,
  },
  { method: methods.removePush, what: "one's own device", params: () => ({ device: "phone" }), outcomes: ANYBODY },
  { method: methods.pushKey, what: "to subscribe with", params: () => ({}), outcomes: ANYBODY },
  { method: methods.listBlocks, what: "one's own", params: () => ({}), outcomes: ANYBODY },
  { method: methods.addBlock, what: "another", params: () => ({ user: "somebody" }), outcomes: ANYBODY },
  { method: methods.removeBlock, what: "another", params: () => ({ user: "somebody" }), outcomes: ANYBODY },
];

let store: TestStore;
let chat: TestChat;
const tokens = new Map<string, string>();
const clients = new Map<Actor, ChatClient>();
/** May publish to a topic, and nothing of the chat. */
let foreignKey: string;

beforeAll(async () => {
  store = await openTestStore("matrix");
  chat = await openTestChat(store);
  for (const actor of ACTORS) {
    tokens.set(actor, await chat.token(actor));
    clients.set(actor, await chat.connect(actor));
  }
  const created = await fetch(`${chat.url}/v1/service-keys`, {
    method: "POST",
    headers: { authorization: `Bearer ${chat.serviceKey}`, "content-type": "application/json" },
    body: JSON.stringify({ scopes: ["publish:orders"] }),
  });
  foreignKey = ((await created.json()) as { key: string }).key;
});

afterAll(async () => {
  for (const client of clients.values()) client[Symbol.dispose]();
  await chat[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
});

async function setStage(actor: Actor): Promise<Stage> {
  const owner = clients.get("owner")!;
  const members = ["admin", "member", "muted", "kicked", "tom"];
  const { conversation: created } = await owner.request("conversation.create", { type: "group", members });
  const conversation: string = created.id;
  const say = async (user: string): Promise<number> => {
    const body = { clientId: `c${++fresh}`, body: { text: "hello" } };
    const response = await chat.http(user, "POST", `/v1/conversations/${conversation}/messages`, body);
    return ((await response.json()) as { seq: number }).seq;
  };
  const foreign = await say("tom");
  const own = actor === "stranger" ? foreign : await say(actor);
  await owner.request("member.update", { conversation, user: "admin", role: "admin" });
  await owner.request("member.update", { conversation, user: "muted", mutedUntil: Date.now() + 600_000 });
  await owner.request("member.remove", { conversation, user: "kicked" });
  return { conversation, actor, own, foreign };
}

/** The route with the params in their places. */
function requestOf({ verb, path }: UserRoute, params: Record<string, unknown>): [url: string, init: RequestInit] {
  const rest = { ...params };
  const filled = path.replaceAll(/:(\w+)/g, (_, name: string) => {
    const value = String(rest[name]);
    delete rest[name];
    return encodeURIComponent(value);
  });
  const method = verb.toUpperCase();
  if (verb === "get" || verb === "delete") {
    const query = new URLSearchParams(
      Object.entries(rest).map(([name, value]): [string, string] => [name, String(value)]),
    );
    return [`${chat.url}${filled}${query.size > 0 ? `?${query}` : ""}`, { method }];
  }
  const headers = { "content-type": "application/json" };
  return [chat.url + filled, { method, headers, body: JSON.stringify(rest) }];
}

async function byHttp(
  route: UserRoute,
  params: Record<string, unknown>,
  credentials: Record<string, string>,
): Promise<string> {
  const [url, init] = requestOf(route, params);
  const response = await fetch(url, {
    ...init,
    headers: { ...(init.headers as Record<string, string>), ...credentials },
  });
  if (response.ok) return "ok";
  return ((await response.json()) as { code: string }).code;
}

const bearer = (token: string | undefined) => ({ authorization: `Bearer ${token}` });
const routesOf = (method: unknown) => USER_ROUTES.filter((route) => route.method === method);
const namesOf = (method: unknown) =>
  [...webSocketMethods].filter(([, found]) => found === method).map(([name]) => name);

describe("nothing is without a row", () => {
  const known = new Set(ROWS.map(({ method }) => method));

  test.each(USER_ROUTES.map((route) => [`${route.verb} ${route.path}`, route.method]))("%s", (_, method) => {
    expect(known.has(method)).toBe(true);
  });

  test.each([...webSocketMethods])("%s", (_, method) => {
    expect(known.has(method)).toBe(true);
  });

  test("and no row is without its method", () => {
    for (const { method } of ROWS) expect([...routesOf(method), ...namesOf(method)]).not.toEqual([]);
  });
});

for (const { method, what, params, outcomes: expected } of ROWS) {
  for (const route of routesOf(method)) {
    describe(`${route.verb} ${route.path}: ${what}`, () => {
      test.each(ACTORS)("by the %s", async (actor) => {
        const stage = await setStage(actor);
        expect(await byHttp(route, params(stage), bearer(tokens.get(actor)))).toBe(expected[actor]);
      });

      test("by a service key for another purpose, by a service for nobody, and by nobody", async () => {
        const stage = await setStage("owner");
        const asOwner = { ...bearer(foreignKey), "skein-user": "owner" };
        expect(await byHttp(route, params(stage), asOwner)).toBe("FORBIDDEN");
        expect(await byHttp(route, params(stage), bearer(chat.serviceKey))).toBe("INVALID");
        expect(await byHttp(route, params(stage), {})).toBe("UNAUTHENTICATED");
      });
    });
  }
  for (const name of namesOf(method)) {
    describe(`${name}: ${what}`, () => {
      test.each(ACTORS)("by the %s", async (actor) => {
        const stage = await setStage(actor);
        const { error } = await clients.get(actor)!.call(name, params(stage));
        expect(error?.data.code ?? "ok").toBe(expected[actor]);
      });

      test("by nobody", async () => {
        const stage = await setStage("owner");
        using nobody = await chat.dial();
        expect((await nobody.call(name, params(stage))).error?.data.code).toBe("UNAUTHENTICATED");
      });
    });
  }
}

test("a service key for another purpose, or for nobody, opens no socket", async () => {
  for (const headers of [
    { authorization: `Bearer ${foreignKey}` },
    { authorization: `Bearer ${foreignKey}`, "skein-user": "owner" },
    { authorization: `Bearer ${chat.serviceKey}` },
  ]) {
    await expect(chat.dial(undefined, headers)).rejects.toThrow();
  }
});

test("a service key of the chat acts for a user by name, and a key for another purpose does not", async () => {
  const stage = await setStage("member");
  const look = async (key: string, user: string) => {
    const headers = { authorization: `Bearer ${key}`, "skein-user": user };
    return (await fetch(`${chat.url}/v1/conversations/${stage.conversation}`, { headers })).status;
  };
  expect(await look(chat.serviceKey, "member")).toBe(200);
  expect(await look(chat.serviceKey, "stranger")).toBe(403);
  expect(await look(foreignKey, "member")).toBe(403);
});

test("what is no route of the users' is closed to all users", async () => {
  const api = (await (await fetch(`${chat.url}/openapi.json`)).json()) as {
    paths: Record<string, Record<string, unknown>>;
  };
  const ofUsers = new Set(USER_ROUTES.map(({ verb, path }) => `${verb} ${path.replaceAll(/:(\w+)/g, "{$1}")}`));
  const others = Object.entries(api.paths)
    .flatMap(([path, verbs]) => Object.keys(verbs).map((verb) => ({ verb, path })))
    .filter(({ verb, path }) => !ofUsers.has(`${verb} ${path}`));
  expect(others.length).toBeGreaterThan(5);
  for (const { verb, path } of others) {
    const response = await fetch(chat.url + path.replaceAll(/\{\w+\}/g, "1"), {
      method: verb.toUpperCase(),
      headers: { authorization: `Bearer ${tokens.get("owner")}` },
    });
    expect([verb, path, response.status]).toEqual([verb, path, 403]);
  }
});

test("that a conversation exists is not told: what is foreign and what is not there give the same answer", async () => {
  const { conversation, foreign } = await setStage("stranger");
  const stranger = clients.get("stranger")!;
  for (const { method, params } of ROWS) {
    for (const name of namesOf(method)) {
      const asked = params({ conversation, actor: "stranger", own: foreign, foreign });
      if (!("conversation" in asked)) continue;
      const there = await stranger.call(name, asked);
      const nowhere = await stranger.call(name, { ...asked, conversation: "nowhere" });
      expect([name, there.error]).toEqual([name, nowhere.error]);
    }
  }
});
