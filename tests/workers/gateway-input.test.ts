/**
 * Bad input at the gateway, by WebSocket and HTTP alike: reliability.md §3, rows A to E that touch what exists. Every row ends
 * as an error that names the field, never as a 5xx, and the gateway serves on.
 */

import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import fc from "fast-check";
import { LIMITS } from "../../lib/im/index.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import type { ChatClient, Frame } from "../support/chat-client.ts";
import { eventually } from "../support/eventually.ts";
import { rawHttp } from "../support/raw-http.ts";
import { openRawSocket, type RawSocket } from "../support/raw-socket.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

let store: TestStore;
let chat: TestChat;
let ada: ChatClient;
let conversation: string;
let token: string;

beforeAll(async () => {
  store = await openTestStore("gw-input");
  chat = await openTestChat(store);
  ada = await chat.connect("ada");
  token = await chat.token("ada");
  conversation = await chat.group("ada", "bob");
});

afterAll(async () => {
  // Whatever was sent above, a message still gets through.
  const sent = await ada.request("message.send", { conversation, clientId: "last", body: { text: "alive" } });
  expect(sent.seq).toBeGreaterThan(0);
  ada[Symbol.dispose]();
  await chat[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
});

let count = 0;
beforeEach(() => {
  count += 1;
});

const send = (change: object = {}) => ({ conversation, clientId: `c${count}`, body: { text: "hi" }, ...change });
const pathOf = (frame: Frame) => frame.error?.data.issues?.[0]?.path;

async function httpProblem(response: Response): Promise<{ code: string; status: number; issues?: { path: string }[] }> {
  expect(response.status).toBeGreaterThanOrEqual(400);
  expect(response.status).toBeLessThan(500);
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  return (await response.json()) as { code: string; status: number; issues?: { path: string }[] };
}

// A. Identifiers

const badIds: [string, unknown][] = [
  ["braces", "a{x}b"],
  ["a brace pair turned round", "}{"],
  ["an empty tag in front", "{}abc"],
  ["an open brace", "{abc"],
  ["a colon", "a:b"],
  ["a star", "*"],
  ["a question mark", "a?"],
  ["a bracket", "[a"],
  ["NUL", "a\u0000b"],
  ["CR LF", "a\r\nb"],
  ["nothing", ""],
  ["a space", " "],
  ["a leading space", " a"],
  ["a trailing tab", "a\t"],
  ["a slash", "a/b"],
  ["an escape", "%00"],
  ["65 characters", "a".repeat(65)],
  ["60 000 characters", "a".repeat(60_000)],
  ["an umlaut", "ä"],
  ["its decomposed twin", "a\u0308"],
  ["a zero-width space", "a\u200bb"],
  ["a right-to-left override", "\u202eabc"],
  ["a homoglyph", "\u0430bc"],
  ["an emoji of several", "\u{1f468}\u200d\u{1f469}"],
  ["a lone surrogate", "\ud800"],
  ["a stream id for all", "$"],
  ["a group's newest", ">"],
  ["plus", "+"],
  ["null", null],
  ["a number", 7],
  ["an operator", { $ne: "" }],
  ["a list", ["a"]],
];

test.each(badIds)("a conversation id with %s is refused by name", async (_, id) => {
  const frame = await ada.call("message.send", send({ conversation: id }));
  expect(frame.error?.data.code).toBe("INVALID");
  expect(pathOf(frame)).toBe("conversation");
  const created = await httpProblem(
    await chat.http("ada", "POST", "/v1/conversations", { id, type: "group", members: [] }),
  );
  expect(created.issues?.[0]?.path).toBe("id");
  if (typeof id === "string" && id !== "" && id.isWellFormed()) {
    const response = await chat.http("ada", "GET", `/v1/conversations/${encodeURIComponent(id)}`);
    // A path of 60 000 characters is the server's to refuse.
    if (id.length < 10_000) expect((await httpProblem(response)).code).toMatch(/^(INVALID|NOT_FOUND)$/);
    else expect(response.status).toBeLessThan(500);
  }
});

test.each(badIds)("a client id with %s is refused by name", async (_, clientId) => {
  const frame = await ada.call("message.send", send({ clientId }));
  expect(frame.error?.data.code).toBe("INVALID");
  expect(pathOf(frame)).toBe("clientId");
  const path = `/v1/conversations/${conversation}/messages`;
  const problem = await httpProblem(await chat.http("ada", "POST", path, { clientId, body: { text: "hi" } }));
  expect(problem.issues?.[0]?.path).toBe("clientId");
});

const badUsers: [string, unknown][] = [
  ...badIds.filter(([name]) => !["plus", "65 characters"].includes(name)),
  ["129 characters", "a".repeat(129)],
];
test.each(badUsers)("a user id with %s is refused by name", async (_, user) => {
  const frame = await ada.call("member.add", { conversation, users: ["cid", user] });
  expect(frame.error?.data.code).toBe("INVALID");
  expect(pathOf(frame)).toBe("users.1");
  const problem = await httpProblem(await chat.http("ada", "POST", "/v1/tokens", { user }));
  expect(problem.issues?.[0]?.path).toBe("user");
});

test.each([
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "0",
  "-1",
  "1e3",
  "007",
  "9007199254740993",
  "..",
  "0-0",
  "-",
  "system",
  "all",
  "im.events",
  "delivery",
])("the odd but allowed id %s names a conversation, a client id and a user like any other", async (id) => {
  const name = `${id}.${count}`;
  const created = await ada.request("conversation.create", { id: name, type: "group", members: [id] });
  expect(created.conversation.id).toBe(name);
  expect(created.conversation.members.map((member: { user: string }) => member.user)).toContain(id);
  const exact = await ada.call("conversation.create", { id, type: "group", members: ["bob"] });
  expect(exact.result?.conversation.id).toBe(id);
  const sent = await ada.request("message.send", { conversation: id, clientId: id, body: { text: id } });
  expect(sent.seq).toBe(1);
  const { messages } = await ada.request("message.history", { conversation: id });
  expect(messages[0].body.text).toBe(id);
});

test("ids that differ by case only are different", async () => {
  const lower = await ada.request("conversation.create", { id: `case${count}`, type: "group", members: [] });
  const upper = await ada.request("conversation.create", { id: `CASE${count}`, type: "group", members: [] });
  expect(lower.conversation.epoch).not.toBe(upper.conversation.epoch);
});

// B. Cursors and numbers

test.each<[string, object, string]>([
  ["after -1", { after: -1 }, "after"],
  ["after 1.5", { after: 1.5 }, "after"],
  ["after null", { after: null }, "after"],
  ["after empty", { after: "" }, "after"],
  ["after a list", { after: [1] }, "after"],
  ["after 2^53", { after: 2 ** 53 }, "after"],
  ["after 2^64", { after: 2 ** 64 }, "after"],
  ["before 0", { before: 0 }, "before"],
  ["limit 0", { limit: 0 }, "limit"],
  ["limit -1", { limit: -1 }, "limit"],
  ["limit 201", { limit: 201 }, "limit"],
  ["limit 10^9", { limit: 1e9 }, "limit"],
  ["limit text", { limit: "10" }, "limit"],
  ["after and before", { after: 1, before: 5 }, "before"],
])("history with %s is refused by name", async (_, change, path) => {
  const frame = await ada.call("message.history", { conversation, ...change });
  expect(frame.error?.data.code).toBe("INVALID");
  expect(pathOf(frame)).toBe(path);
});

test.each([
  "after=NaN",
  "after=Infinity",
  "limit=1e309",
  "limit=0x10",
  "after=-0.5",
  "after=",
  "limit=10&limit=20",
  "before=+1",
])("history by HTTP with %s is refused by name", async (query) => {
  const problem = await httpProblem(
    await chat.http("ada", "GET", `/v1/conversations/${conversation}/messages?${query}`),
  );
  expect(problem.issues?.[0]?.path).toBe(query.split("=")[0]!);
});

test("a range that ends before it begins is empty, and history beyond the head too", async () => {
  expect((await ada.request("message.history", { conversation, after: 1_000_000 })).messages).toEqual([]);
  const number = JSON.stringify({ jsonrpc: "2.0", id: "inf", method: "message.history", params: { conversation } });
  ada.raw(number.replace("}}", ',"limit":1e999}}'));
  expect(pathOf(await ada.nextOther())).toBe("limit");
});

test.each<[string, (right: { epoch: string; id: string; other: string }) => object, string]>([
  ["the future", ({ epoch }) => ({ epoch, seq: 1_000 }), "reset"],
  ["another epoch", () => ({ epoch: "another", seq: 1 }), "reset"],
  ["another message at its seq", ({ epoch }) => ({ epoch, seq: 1, id: "01JDG3S8QK7XN4P200A1" }), "reset"],
  ["another conversation's epoch", ({ other }) => ({ epoch: other, seq: 1 }), "reset"],
  ["the right place", ({ epoch, id }) => ({ epoch, seq: 1, id }), "resumed"],
])("a cursor of %s gets an honest verdict", async (_, make, verdict) => {
  const own = await chat.group("ada", "bob");
  const foreign = await chat.group("ada", "bob");
  const { id } = await ada.request("message.send", { conversation: own, clientId: "c", body: { text: "hi" } });
  const { epoch } = await ada.request("message.history", { conversation: own });
  const { epoch: other } = await ada.request("message.history", { conversation: foreign });
  const { conversations } = await ada.request("sync", {
    cursors: [{ conversation: own, ...make({ epoch, id, other }) }],
  });
  const found = conversations.find((one: { conversation: string }) => one.conversation === own);
  expect(found.verdict).toBe(verdict);
});

test.each<[string, unknown, string]>([
  ["seq -1", { seq: -1 }, "cursors.0.seq"],
  ["seq 2^63", { seq: 2 ** 63 }, "cursors.0.seq"],
  ["no seq", { seq: undefined }, "cursors.0.seq"],
  ["an epoch of 65 characters", { epoch: "e".repeat(65) }, "cursors.0.epoch"],
  ["an epoch that is a number", { epoch: 7 }, "cursors.0.epoch"],
  ["an unknown field", { top: 1 }, "cursors.0.top"],
])("a cursor with %s is refused by name", async (_, change, path) => {
  const cursors = [{ conversation, epoch: "e", seq: 1, ...(change as object) }];
  expect(pathOf(await ada.call("sync", { cursors }))).toBe(path);
  expect((await httpProblem(await chat.http("ada", "POST", "/v1/sync", { cursors }))).issues?.[0]?.path).toBe(path);
});

test("201 cursors, and cursors that are no list", async () => {
  const cursor = { conversation, epoch: "e", seq: 1 };
  expect(pathOf(await ada.call("sync", { cursors: Array.from({ length: 201 }, () => cursor) }))).toBe("cursors");
  expect(pathOf(await ada.call("sync", { cursors: cursor }))).toBe("cursors");
});

test("forged page tokens", async () => {
  for (const before of ["x", "-1", "1:a:b", "1:{}", "9".repeat(17), "' OR 1=1", ""]) {
    expect(pathOf(await ada.call("conversation.list", { before }))).toBe("before");
  }
  // One of another user is a place in time and shows nothing but one's own.
  const theirs = await chat.group("eve", "mallory");
  const { conversations } = await ada.request("conversation.list", { before: `${Date.now() + 1_000}:${theirs}` });
  expect(conversations.map((one: { id: string }) => one.id)).not.toContain(theirs);
});

test("read: never backward, never beyond the head", async () => {
  for (const seq of [0, -1, 1.5, 2 ** 53, "1", null])
    expect(pathOf(await ada.call("read", { conversation, seq }))).toBe("seq");
  const { head } = await ada.request("message.history", { conversation });
  expect(pathOf(await ada.call("read", { conversation, seq: head + 1 }))).toBe("seq");
});

// C. JSON and frames

function nested(levels: number): object {
  return levels === 1 ? {} : { a: nested(levels - 1) };
}

test.each<[string, object, string]>([
  ["an unknown field", { senderId: "bob" }, "senderId"],
  ["seq", { seq: 7 }, "seq"],
  ["a time", { sentAt: 1 }, "sentAt"],
  ["from", { from: "bob" }, "from"],
  ["by", { by: "bob" }, "by"],
  ["__proto__", JSON.parse('{"__proto__":{"isAdmin":true}}'), "__proto__"],
  ["constructor", { constructor: { prototype: {} } }, "constructor"],
  ["toString", { toString: 1 }, "toString"],
  ["a type that is no id", { type: "a b" }, "type"],
  ["a type that is a number", { type: 1 }, "type"],
  ["another type and a body that is text", { type: "poll", body: "x" }, "body"],
  ["another type and a body that is a list", { type: "poll", body: [1] }, "body"],
  ["another type and no body", { type: "poll", body: undefined }, "body"],
  ["another type and a body that is too large", { type: "poll", body: { a: "ä".repeat(8_190) } }, "body"],
  ["another type and a body nested too deep", { type: "poll", body: nested(31) }, "body"],
  ["no body", { body: undefined }, "body"],
  ["a body that is text", { body: "hi" }, "body"],
  ["a body that is a list", { body: ["hi"] }, "body.text"],
  ["an empty text", { body: { text: "" } }, "body.text"],
  ["a text that is an object", { body: { text: { $gt: "" } } }, "body.text"],
  ["a body with more", { body: { text: "a", html: "<b>" } }, "body.html"],
  ["a lone surrogate", { body: { text: "a\ud800" } }, "body.text"],
  ["one byte too many", { body: { text: "a".repeat(LIMITS.textBytes + 1) } }, "body.text"],
  ["one byte too many of two-byte characters", { body: { text: `${"ä".repeat(LIMITS.textBytes / 2)}a` } }, "body.text"],
  ["replyTo 0", { replyTo: 0 }, "replyTo"],
  ["replyTo text", { replyTo: "1" }, "replyTo"],
  ["51 mentions", { mentions: Array.from({ length: 51 }, (_, i) => `u${i}`) }, "mentions"],
  ["a mention twice", { mentions: ["bob", "bob"] }, "mentions"],
  ["mentions that are text", { mentions: "bob" }, "mentions"],
])("a send with %s is refused by name", async (_, change, path) => {
  const params = send();
  const merged = Object.hasOwn(change, "__proto__")
    ? JSON.parse(`{"__proto__":{"isAdmin":true},${JSON.stringify(params).slice(1)}`)
    : { ...params, ...change };
  const frame = await ada.call("message.send", merged);
  expect(frame.error?.data.code).toBe("INVALID");
  expect(pathOf(frame)).toBe(path);
  const { conversation: _inPath, ...body } = merged;
  if (Object.hasOwn(change, "__proto__")) return;
  const problem = await httpProblem(await chat.http("ada", "POST", `/v1/conversations/${conversation}/messages`, body));
  expect(problem.issues?.[0]?.path).toBe(path);
});

test("mass assignment through the conversation's own fields", async () => {
  for (const field of ["epoch", "head", "role", "owner", "created", "version"]) {
    const frame = await ada.call("conversation.create", { type: "group", members: [], [field]: "x" });
    expect(pathOf(frame)).toBe(field);
  }
});

test.each<[string, string, object, string]>([
  ["an edit without a body", "message.edit", { body: undefined }, "body"],
  ["an edit to a list", "message.edit", { body: [] }, "body"],
  ["an edit nested too deep", "message.edit", { body: nested(31) }, "body"],
  ["an edit of seq 0", "message.edit", { seq: 0 }, "seq"],
  ["an edit of a text seq", "message.edit", { seq: "1" }, "seq"],
  ["an edit in another's name", "message.edit", { by: "bob" }, "by"],
  ["a recall for nobody", "message.recall", { for: "nobody" }, "for"],
  ["a recall of 2^53", "message.recall", { seq: 2 ** 53 }, "seq"],
  ["a reaction without emoji", "message.react", { emoji: undefined }, "emoji"],
  ["a reaction of nothing", "message.react", { emoji: "" }, "emoji"],
  ["a reaction of a sentence", "message.react", { emoji: "so good" }, "emoji"],
  ["a reaction of 65 bytes", "message.react", { emoji: `${"👍".repeat(16)}a` }, "emoji"],
  ["a reaction of a letter and an emoji", "message.react", { emoji: "a👍" }, "emoji"],
  ["a reaction of a joiner alone", "message.react", { emoji: "\u200d" }, "emoji"],
  ["a reaction with a quote", "message.react", { emoji: '👍"' }, "emoji"],
  ["a reaction turned round", "message.react", { emoji: "\u202e👍" }, "emoji"],
  ["a reaction of a lone surrogate", "message.react", { emoji: "\ud83d" }, "emoji"],
  ["a reaction that is a list", "message.react", { emoji: ["👍"] }, "emoji"],
  ["a reaction that is on and off", "message.react", { on: 1 }, "on"],
])("%s is refused by name", async (_, method, change, path) => {
  const whole = { "message.edit": { body: { text: "x" } }, "message.react": { emoji: "👍" } }[method];
  const frame = await ada.call(method, { conversation, seq: 1, ...whole, ...change });
  expect(frame.error?.data.code).toBe("INVALID");
  expect(pathOf(frame)).toBe(path);
});

test.each<[string, string, object, string]>([
  ["typing without on", "typing", { conversation: "c" }, "on"],
  ["typing on as text", "typing", { conversation: "c", on: "true" }, "on"],
  ["a presence of nobody", "presence.subscribe", { users: [] }, "users"],
  ["a presence of a pattern", "presence.subscribe", { users: ["*"] }, "users.0"],
  ["a presence of 101", "presence.subscribe", { users: Array.from({ length: 101 }, (_, i) => `u${i}`) }, "users"],
  ["a presence of one twice", "presence.subscribe", { users: ["bob", "bob"] }, "users"],
  ["a presence that is text", "presence.unsubscribe", { users: "bob" }, "users"],
  ["delivered 0", "delivered", { conversation: "c", seq: 0 }, "seq"],
  ["delivered for another", "delivered", { conversation: "c", seq: 1, user: "bob" }, "user"],
  ["a mute until never", "conversation.mute", { conversation: "c", until: -1 }, "until"],
  [
    "a mute until the end of numbers",
    "conversation.mute",
    { conversation: "c", until: 9_007_199_254_740_991 },
    "until",
  ],
  [
    "a member's mute until the end of numbers",
    "member.update",
    { conversation: "c", user: "bob", mutedUntil: 9_007_199_254_740_991 },
    "mutedUntil",
  ],
  ["a block of braces", "block.add", { user: "{0}" }, "user"],
  ["a block of oneself", "block.add", { user: "ada" }, "user"],
  ["a block without a user", "block.remove", {}, "user"],
  ["a device of a colon", "device.remove", { device: "a:b" }, "device"],
  ["a device of another user", "device.remove", { device: "a", user: "bob" }, "user"],
  ["a list with a filter", "device.list", { user: "bob" }, "user"],
  ["joining by a word", "conversation.update", { conversation: "c", join: "all" }, "join"],
  ["a change of nothing", "conversation.update", { conversation: "c" }, "title"],
  ["a role that is not one", "member.update", { conversation: "c", user: "bob", role: "root" }, "role"],
])("%s is refused by name", async (_, method, params, path) => {
  const frame = await ada.call(method, params);
  expect(frame.error?.data.code).toBe("INVALID");
  expect(pathOf(frame)).toBe(path);
});

test.each(["👍", "👍🏽", "❤️", "❤", "👨‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🇫🇮", "1️⃣", "party_parrot", "+1"])(
  "the reaction %s is one",
  async (emoji) => {
    const { seq } = await ada.request("message.send", send());
    const { message } = await ada.request("message.react", { conversation, seq, emoji });
    expect(message.reactions).toEqual([{ emoji, count: 1, users: ["ada"] }]);
    const path = `/v1/conversations/${conversation}/messages/${seq}/reactions/${encodeURIComponent(emoji)}`;
    expect((await chat.http("ada", "DELETE", path)).status).toBe(204);
    const put = await chat.http("ada", "PUT", path);
    expect([put.status, (await put.json()) as object]).toEqual([200, { message }]);
  },
);

test.each(["0", "-1", "x", "1.5", "1e3", "9007199254740992", "%00", "' OR 1=1"])(
  "seq %s in a path is refused by name",
  async (seq) => {
    const path = `/v1/conversations/${conversation}/messages/${encodeURIComponent(seq)}`;
    for (const [method, more, body] of [
      ["PATCH", "", { body: { text: "x" } }],
      ["DELETE", "", undefined],
      ["PUT", "/reactions/ok", undefined],
      ["DELETE", "/reactions/ok", undefined],
    ] as const) {
      const problem = await httpProblem(await chat.http("ada", method, path + more, body));
      expect(problem.issues?.[0]?.path).toBe("seq");
    }
  },
);

test("a body of an app's own type survives byte for byte, whatever its names", async () => {
  const own = await chat.group("ada", "bob");
  const body = JSON.parse(
    '{"__proto__":{"x":1},"constructor":[],"":null,"10":1,"2":2,"text":7,"big":9007199254740993,"deep":{"a":[[{}]]},"s":"\\u0000\\ud83d\\ude00"}',
  );
  const text = JSON.stringify(body);
  await ada.request("message.send", { conversation: own, clientId: "own", type: "x.poll", body });
  const { messages } = await ada.request("message.history", { conversation: own });
  expect(messages[0].type).toBe("x.poll");
  expect(JSON.stringify(messages[0].body)).toBe(text);
  const deepest = { conversation: own, clientId: "deep", type: "x", body: nested(30) };
  expect((await ada.request("message.send", deepest)).seq).toBe(2);
});

test("the largest text, NUL and numbers in it, and SQL survive byte for byte", async () => {
  const texts = [
    "a".repeat(LIMITS.textBytes),
    "ä".repeat(LIMITS.textBytes / 2),
    "\u{1f600}".repeat(LIMITS.textBytes / 4),
    "a\u0000b",
    "9007199254740993 1e400 -0",
    "'; DROP TABLE entries; --",
    '"}}{"jsonrpc":"2.0"',
    "e\u0301 é",
    "\ufeff\u2028\u2029\u202e",
    " ",
  ];
  const own = await chat.group("ada", "bob");
  using bob = await chat.connect("bob");
  for (const [i, text] of texts.entries()) {
    await ada.request("message.send", { conversation: own, clientId: `t${i}`, body: { text } });
    expect((await bob.next("message")).message.body.text).toBe(text);
  }
  const { messages } = await bob.request("message.history", { conversation: own, after: 0 });
  expect(messages.map((message: { body: { text: string } }) => message.body.text)).toEqual(texts);
});

test.each<[string, string, number]>([
  ["empty", "", -32700],
  ["blank", "  ", -32700],
  ["cut off", '{"jsonrpc":"2.0","id":1,"method":"session.ping"', -32700],
  ["a BOM", '\ufeff{"jsonrpc":"2.0","id":1,"method":"session.ping"}', -32700],
  ["null", "null", -32600],
  ["a number", "1", -32600],
  ["a string", '"x"', -32600],
  ["an empty batch", "[]", -32600],
  ["no version", '{"id":1,"method":"session.ping"}', -32600],
  ["version 1", '{"jsonrpc":"1.0","id":1,"method":"session.ping"}', -32600],
  ["no id", '{"jsonrpc":"2.0","method":"session.ping"}', -32600],
  ["id null", '{"jsonrpc":"2.0","id":null,"method":"session.ping"}', -32600],
  ["id an object", '{"jsonrpc":"2.0","id":{},"method":"session.ping"}', -32600],
  ["id infinite", '{"jsonrpc":"2.0","id":1e400,"method":"session.ping"}', -32600],
  ["id of 129 characters", `{"jsonrpc":"2.0","id":"${"i".repeat(129)}","method":"session.ping"}`, -32600],
  ["no method", '{"jsonrpc":"2.0","id":1}', -32600],
  ["method a number", '{"jsonrpc":"2.0","id":1,"method":7}', -32600],
  ["an unknown member", '{"jsonrpc":"2.0","id":1,"method":"session.ping","token":"x"}', -32600],
  ["30 000 deep", `${"[".repeat(30_000)}${"]".repeat(30_000)}`, -32600],
  ["30 000 deep and cut off", "[".repeat(60_000), -32700],
])("a frame that is or has %s is answered as such, and the socket stays", async (_, frame, code) => {
  using client = await chat.connect("ada");
  client.raw(frame);
  const answer = await client.nextOther();
  const error = Array.isArray(answer) ? (answer as Frame[])[0]!.error : answer.error;
  expect(error?.code).toBe(code);
  expect(error?.message.length).toBeLessThan(300);
  expect(await client.request("session.ping")).toEqual({ serverTime: expect.any(Number) });
});

test.each<[string, unknown, string]>([
  ["an unknown method", "nope", "METHOD_NOT_FOUND"],
  ["a method of nobody", "message.pin", "METHOD_NOT_FOUND"],
  ["a name of Object", "constructor", "METHOD_NOT_FOUND"],
  ["__proto__", "__proto__", "METHOD_NOT_FOUND"],
  ["session.open again", "session.open", "CONFLICT"],
])("%s", async (_, method, code) => {
  expect((await ada.call(method as string, {})).error?.data.code).toBe(code);
});

test("params by position, null and missing", async () => {
  for (const params of [[conversation], null, "x", 1]) {
    expect((await ada.call("message.history", params)).error?.data.code).toBe("INVALID");
  }
  expect(pathOf(await ada.call("message.history"))).toBe("conversation");
});

test("the session's own methods refuse unknown fields, too", async () => {
  expect(pathOf(await ada.call("session.ping", { token: "x" }))).toBe("token");
  expect((await ada.call("session.ping")).result).toEqual({ serverTime: expect.any(Number) });
});

test("batches: 64 pass, 65 do not, and a bad part spoils no other", async () => {
  using client = await chat.connect("ada");
  const ping = (id: number) => ({ jsonrpc: "2.0", id, method: "session.ping" });
  client.raw(JSON.stringify(Array.from({ length: 64 }, (_, i) => ping(i))));
  expect(await client.nextOther()).toHaveLength(64);
  client.raw(JSON.stringify(Array.from({ length: 65 }, (_, i) => ping(i))));
  expect((await client.nextOther()).error?.code).toBe(-32600);
  client.raw(JSON.stringify([ping(1), 7, { ...ping(2), method: "nope" }, [ping(3)], ping(4)]));
  const parts = (await client.nextOther()) as unknown as Frame[];
  expect(parts.map((part) => part.error?.code ?? 0).sort()).toEqual([-32600, -32600, -32601, 0, 0].sort());
});

test("a batch of eight large histories says what did not fit", async () => {
  const own = await chat.group("ada", "bob");
  const text = "x".repeat(16_000);
  for (let i = 0; i < 10; i++)
    await ada.request("message.send", { conversation: own, clientId: `b${i}`, body: { text } });
  using client = await chat.connect("ada");
  const ask = (id: number) => ({ jsonrpc: "2.0", id, method: "message.history", params: { conversation: own } });
  client.raw(JSON.stringify(Array.from({ length: 8 }, (_, i) => ask(i))));
  const parts = (await client.nextOther()) as unknown as Frame[];
  expect(parts).toHaveLength(8);
  const tooLarge = parts.filter((part) => part.error?.data.code === "TOO_LARGE");
  expect(tooLarge.length).toBeGreaterThan(0);
  expect(tooLarge.length).toBeLessThan(8);
});

test("ten frames in a row that are no requests end the socket; nine and a good one do not", async () => {
  using client = await chat.connect("ada");
  for (let i = 0; i < 9; i++) client.raw("{");
  expect(await client.request("session.ping")).toBeDefined();
  for (let i = 0; i < 10; i++) client.raw("{");
  expect((await client.closed).code).toBe(4505);
});

test("five hundred requests at once: 128 run, the others are told to wait", async () => {
  using client = await chat.connect("ada");
  const own = await chat.group("ada", "bob");
  const answers = await Promise.all(
    Array.from({ length: 500 }, () => client.call("message.history", { conversation: own })),
  );
  const limited = answers.filter((answer) => answer.error?.data.code === "RATE_LIMITED");
  expect(answers.filter((answer) => answer.result)).toHaveLength(answers.length - limited.length);
  expect(limited.length).toBeGreaterThan(0);
  for (const { error } of limited) expect(error?.data.retryAfterMs).toBeGreaterThan(0);
});

// Frames by hand

const openFrame = () => JSON.stringify({ jsonrpc: "2.0", id: 1, method: "session.open", params: { token } });
async function openRaw(): Promise<RawSocket> {
  const socket = await openRawSocket(chat.port);
  socket.send(openFrame());
  await eventually(() => expect(socket.texts).toHaveLength(1));
  return socket;
}

const ping = '{"jsonrpc":"2.0","id":2,"method":"session.ping"}';

test.each<[string, (socket: RawSocket) => void, number[]]>([
  ["a binary frame", (socket) => socket.send(ping, { opcode: 2 }), [4505]],
  ["a frame one byte over the limit", (socket) => socket.send("x".repeat(LIMITS.frameBytes + 1)), [1009, 1006]],
  ["invalid UTF-8", (socket) => socket.send(new Uint8Array([0x22, 0xff, 0xfe, 0x22])), [1007, 1006]],
  ["an unmasked frame", (socket) => socket.send(ping, { isMasked: false }), [1002, 1006]],
  ["a reserved opcode", (socket) => socket.send(ping, { opcode: 3 }), [1002, 1006]],
  ["a reserved bit", (socket) => socket.send(ping, { reserved: 2 }), [1002, 1006]],
  ["a compressed frame", (socket) => socket.send(ping, { reserved: 4 }), [1002, 1006]],
  ["a fragmented ping", (socket) => socket.send("", { opcode: 9, isFinal: false }), [1002, 1006]],
  ["a ping of 126 bytes", (socket) => socket.send("x".repeat(126), { opcode: 9 }), [1002, 1006]],
  [
    "a close with code 1005",
    (socket) => socket.send(new Uint8Array([0x03, 0xed]), { opcode: 8 }),
    [1000, 1002, 1005, 1006],
  ],
  [
    "a close with code 65535",
    (socket) => socket.send(new Uint8Array([0xff, 0xff]), { opcode: 8 }),
    [1000, 1002, 1005, 1006],
  ],
  ["a close of one byte", (socket) => socket.send(new Uint8Array([0x03]), { opcode: 8 }), [1000, 1002, 1005, 1006]],
  [
    "a length of 2^63",
    (socket) => socket.bytes(new Uint8Array([0x81, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0])),
    [1009, 1006],
  ],
])("%s closes its socket and no other", async (_, act, codes) => {
  using socket = await openRaw();
  act(socket);
  expect(codes).toContain(await socket.closed);
  expect(await ada.request("session.ping")).toBeDefined();
});

test("a frame of exactly the limit is read", async () => {
  const frame = JSON.stringify({ jsonrpc: "2.0", id: "limit", method: "session.ping", params: { pad: "" } });
  ada.raw(frame.replace('"pad":""', `"pad":"${"x".repeat(LIMITS.frameBytes - frame.length)}"`));
  expect((await ada.nextOther()).id).toBe("limit");
});

test("twenty thousand fragments make a frame; a flood of pings and empty fragments between them breaks nothing", async () => {
  using socket = await openRaw();
  const frame = ping.padEnd(20_000, " ");
  socket.send(frame[0]!, { isFinal: false });
  for (let i = 1; i < frame.length - 1; i++) {
    socket.send(frame[i]!, { opcode: 0, isFinal: false });
    if (i % 100 === 0) socket.send("", { opcode: 9 });
    if (i % 100 === 50) socket.send("", { opcode: 0, isFinal: false });
  }
  socket.send(" ", { opcode: 0 });
  await eventually(() => expect(socket.texts).toHaveLength(2));
  expect(JSON.parse(socket.texts[1]!)).toMatchObject({ id: 2, result: { serverTime: expect.any(Number) } });
});

test("two thousand random frames: each is answered, or its socket is closed as a protocol error", async () => {
  const envelope = {
    jsonrpc: "2.0",
    id: 1,
    method: "message.send",
    params: { conversation, clientId: "f", body: { text: "x" } },
  };
  const text = JSON.stringify(envelope);
  const broken = fc
    .tuple(fc.nat(text.length), fc.string({ maxLength: 5, unit: "binary" }), fc.nat(5))
    .map(([at, insert, cut]) => text.slice(0, at) + insert + text.slice(at + cut));
  const reshaped = fc
    .tuple(fc.constantFrom("conversation", "clientId", "body", "type", "mentions", "replyTo", "x"), fc.jsonValue())
    .map(([field, value]) => JSON.stringify({ ...envelope, params: { ...envelope.params, [field]: value } }));
  const frames = fc.sample(fc.oneof(broken, reshaped, fc.json(), fc.string({ unit: "binary" })), 2_000);
  let client = await chat.connect("ada");
  for (const frame of frames) {
    client.raw(frame);
    const answer = await client.nextOther().catch(async () => ({ closed: (await client.closed).code }));
    if ("closed" in answer) expect(answer.closed).toBe(4505);
    else for (const part of [answer].flat() as Frame[]) expect(part.error?.data.code).not.toBe("INTERNAL");
    if (client.socket.readyState === WebSocket.OPEN) continue;
    client = await chat.connect("ada");
  }
  client[Symbol.dispose]();
});

// Before authentication

test("before session.open: other requests are refused, 4 KiB are the limit, a bad token closes", async () => {
  using early = await chat.dial();
  expect((await early.call("message.send", send())).error?.data.code).toBe("UNAUTHENTICATED");
  expect((await early.call("session.ping")).error?.data.code).toBe("UNAUTHENTICATED");
  expect(pathOf(await early.call("session.open", {}))).toBe("token");
  expect(pathOf(await early.call("session.open", { token, device: "a b" }))).toBe("device");
  expect(pathOf(await early.call("session.open", { token, user: "bob" }))).toBe("user");
  expect((await early.request("session.open", { token })).user).toBe("ada");

  using large = await chat.dial();
  large.raw(`{"pad":"${"x".repeat(4_096)}"}`);
  expect((await large.closed).code).toBe(4505);

  using bad = await chat.dial();
  expect((await bad.call("session.open", { token: `${token}x` })).error?.data.code).toBe("UNAUTHENTICATED");
  expect((await bad.closed).code).toBe(4501);
});

test("what comes with session.open in one batch or right behind it waits for its answer", async () => {
  using client = await chat.dial();
  client.raw(
    JSON.stringify([
      { jsonrpc: "2.0", id: "o", method: "session.open", params: { token } },
      { jsonrpc: "2.0", id: "p", method: "session.ping" },
    ]),
  );
  const parts = (await client.nextOther()) as unknown as Frame[];
  expect(parts.find((part) => part.id === "p")?.error?.data.code).toBe("UNAUTHENTICATED");
  expect(parts.find((part) => part.id === "o")?.result.user).toBe("ada");
  expect(await client.request("session.ping")).toBeDefined();
});

// D and E. HTTP, origins, credentials

test("bodies over 64 KiB are refused, with a length and without", async () => {
  const path = `/v1/conversations/${conversation}/messages`;
  const large = await chat.http("ada", "POST", path, { clientId: "c", body: { text: "x".repeat(70_000) } });
  expect(large.status).toBe(413);
  const huge = await chat.http("ada", "POST", path, { clientId: "c", body: { text: "x".repeat(3_000_000) } });
  expect(huge.status).toBe(413);
  const chunk = `4000\r\n${"x".repeat(0x4000)}\r\n`;
  const { status } = await rawHttp(
    chat.port,
    `POST ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\n` +
      `Transfer-Encoding: chunked\r\n\r\n${chunk.repeat(5)}0\r\n\r\n`,
  );
  expect(status).toBe(413);
});

test("no route of the API answers without credentials, with a query token neither", async () => {
  const api = (await (await fetch(`${chat.url}/openapi.json`)).json()) as {
    paths: Record<string, Record<string, unknown>>;
  };
  const routes = Object.entries(api.paths).flatMap(([path, verbs]) =>
    Object.keys(verbs).map((verb) => ({ verb, path })),
  );
  expect(routes.length).toBeGreaterThan(10);
  for (const { verb, path } of routes) {
    const filled = path.replaceAll(/\{\w+\}/g, "1");
    for (const url of [filled, `${filled}?token=${token}`, `${filled}?access_token=${token}`]) {
      const response = await fetch(chat.url + url, { method: verb.toUpperCase() });
      expect([verb, path, response.status]).toEqual([verb, path, 401]);
      expect(response.headers.get("www-authenticate")).toBe("Bearer");
    }
  }
});

test("a user mints no tokens", async () => {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const response = await fetch(`${chat.url}/v1/tokens`, { method: "POST", headers, body: '{"user":"bob"}' });
  expect((await httpProblem(response)).code).toBe("FORBIDDEN");
});

test.each([
  "//v1/conversations",
  "/v1/../v1/tokens/x",
  "/V1/conversations",
  "/v1/conversations/",
  "/v1%2fconversations",
  "/v1/conversations/..;/x",
  "/metrics/",
  "/.",
])("path %s leads nowhere", async (path) => {
  const { status } = await rawHttp(
    chat.port,
    `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nConnection: close\r\n\r\n`,
  );
  expect(status === undefined || (status >= 400 && status < 500)).toBe(true);
});

const upgrade = (lines: Record<string, string | undefined> = {}, path = "/v1/ws", method = "GET") => {
  const headers: Record<string, string | undefined> = {
    Host: "chat.example",
    Upgrade: "websocket",
    Connection: "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    ...lines,
  };
  const text = Object.entries(headers).map(([name, value]) => (value === undefined ? "" : `${name}: ${value}\r\n`));
  return rawHttp(chat.port, `${method} ${path} HTTP/1.1\r\n${text.join("")}\r\n`);
};

test.each<[string, Record<string, string | undefined>, string, string, number[]]>([
  ["as it should be", {}, "/v1/ws", "GET", [101]],
  ["of the same origin", { Origin: "https://chat.example" }, "/v1/ws", "GET", [101]],
  ["of origin null", { Origin: "null" }, "/v1/ws", "GET", [403]],
  ["of a foreign origin with a cookie", { Origin: "https://evil.com", Cookie: "a=b" }, "/v1/ws", "GET", [403]],
  ["of a longer host", { Origin: "https://chat.example.evil.com" }, "/v1/ws", "GET", [403]],
  ["of a path like ours", { Origin: "https://evil.com/chat.example" }, "/v1/ws", "GET", [403]],
  ["of another port", { Origin: "https://chat.example:8443" }, "/v1/ws", "GET", [403]],
  ["of an empty origin", { Origin: "" }, "/v1/ws", "GET", [403, 101]],
  ["without a key", { "Sec-WebSocket-Key": undefined }, "/v1/ws", "GET", [400]],
  ["with a short key", { "Sec-WebSocket-Key": "abc" }, "/v1/ws", "GET", [400]],
  ["of version 8", { "Sec-WebSocket-Version": "8" }, "/v1/ws", "GET", [400]],
  ["to something else", { Upgrade: "h2c" }, "/v1/ws", "GET", [400]],
  ["without Upgrade", { Upgrade: undefined }, "/v1/ws", "GET", [400]],
  ["by POST", {}, "/v1/ws", "POST", [405]],
  ["elsewhere", {}, "/v1/conversations", "GET", [401]],
  ["nowhere", {}, "/v1/wsx", "GET", [404]],
  ["with a token in the query", {}, "/v1/ws?token=abc", "GET", [400]],
  ["with a bad token", { Authorization: "Bearer nonsense" }, "/v1/ws", "GET", [401]],
  ["with another scheme", { Authorization: "Basic YTpi" }, "/v1/ws", "GET", [401]],
  ["with odd protocols", { "Sec-WebSocket-Protocol": `b${" ".repeat(4_000)}x` }, "/v1/ws", "GET", [101, 400]],
  ["with a protocol beyond ASCII", { "Sec-WebSocket-Protocol": "\u00e9\u00ff" }, "/v1/ws", "GET", [101, 400]],
])("an upgrade %s", async (_, headers, path, method, statuses) => {
  const { status } = await upgrade(headers, path, method);
  expect(statuses).toContain(status!);
});

test("a foreign X-Forwarded-For makes nobody local", async () => {
  for (const address of ["127.0.0.1", "::ffff:7f00:1", "::1"]) {
    const response = await fetch(`${chat.url}/v1/conversations`, {
      headers: { "x-forwarded-for": address, host: "localhost" },
    });
    expect(response.status).toBe(401);
  }
});
