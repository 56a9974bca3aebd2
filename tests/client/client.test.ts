/** The client against a gateway that misbehaves on purpose: what it repeats, holds, orders, asks and gives up. */

import { expect, test } from "bun:test";
import { askedMs, backoffMs } from "../../lib/client/backoff.ts";
import { type Client, ClientError, type ConnectOptions, connect, type Entry, fold } from "../../lib/client/index.ts";
import { eventually } from "../support/eventually.ts";
import {
  type Connection,
  type Frame,
  messageOf,
  type ScriptedGateway,
  startScriptedGateway,
  synced,
} from "./scripted-gateway.ts";

const START = { conversation: "c1", epoch: "e1", seq: 0 };

/** A connected client that follows c1 from its start, and what it handed on. */
async function follow(gateway: ScriptedGateway, options: Partial<ConnectOptions> = {}) {
  const client = connect({ url: gateway.url, token: "good", cursors: [START], ...options });
  const texts: string[] = [];
  const resyncs: unknown[] = [];
  client.on("message", ({ message }) => texts.push(message.body.text!));
  client.on("resync", (notice) => resyncs.push(notice));
  await client.ready();
  await eventually(() => expect(gateway.of("sync").length).toBeGreaterThan(0));
  return Object.assign(closing(client), { client, texts, resyncs });
}

const closing = (client: Client) => ({ [Symbol.dispose]: () => client.close() });

/** Answers syncs as if c1 were unchanged, and sends with the next seq. */
function obliging() {
  let head = 0;
  return (frame: Frame, connection: Connection) => {
    if (frame.method === "sync") connection.answer(frame, { conversations: [synced("resumed", [])] });
    else if (frame.method === "message.send") {
      head += 1;
      connection.answer(frame, { id: `id-${head}`, conversation: "c1", seq: head, sentAt: 1 });
    } else return undefined;
    return true;
  };
}

test("a send resolves with its place, and the sender sees its own message in order", async () => {
  using gateway = startScriptedGateway(obliging());
  using it = await follow(gateway);
  expect(await it.client.send("c1", "one")).toMatchObject({ seq: 1 });
  expect(await it.client.send("c1", "two")).toMatchObject({ seq: 2 });
  expect(it.texts).toEqual(["one", "two"]);
});

test("an unanswered send is sent again after a lost socket, under the same clientId and before its successors", async () => {
  const oblige = obliging();
  let isMute = true;
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method === "message.send" && isMute) {
      isMute = false;
      connection.socket.terminate();
      return true;
    }
    return oblige(frame, connection);
  });
  using it = await follow(gateway);
  await Promise.all([it.client.send("c1", "one"), it.client.send("c1", "two")]);
  const sent = gateway.of("message.send").map((frame) => frame.params as { clientId: string; body: { text: string } });
  expect(sent.map((params) => params.body.text)).toEqual(["one", "one", "two"]);
  expect(sent[1]!.clientId).toBe(sent[0]!.clientId);
  expect(it.texts).toEqual(["one", "two"]);
});

test("a rate limit is waited out, and later sends to the conversation do not overtake", async () => {
  const oblige = obliging();
  let refusals = 2;
  const times: number[] = [];
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "message.send") return oblige(frame, connection);
    times.push(performance.now());
    if (refusals-- > 0) {
      connection.refuse(frame, "RATE_LIMITED", { retryable: true, retryAfterMs: 300 });
      return true;
    }
    return oblige(frame, connection);
  });
  using it = await follow(gateway);
  await Promise.all(["one", "two", "three"].map((text) => it.client.send("c1", text)));
  expect(it.texts).toEqual(["one", "two", "three"]);
  expect(times[1]! - times[0]!).toBeGreaterThanOrEqual(295);
});

test("a refusal that is final rejects as failed, with its code", async () => {
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "message.send") return undefined;
    connection.refuse(frame, "NOT_MEMBER");
    return true;
  });
  using it = await follow(gateway);
  const error = await it.client.send("c1", "x").catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(ClientError);
  expect(error).toMatchObject({ code: "NOT_MEMBER", outcome: "failed" });
});

test("past its deadline a sent request is unknown, one that never left has failed", async () => {
  using gateway = startScriptedGateway((frame) => frame.method === "message.send");
  using it = await follow(gateway, { timeoutMs: 150 });
  expect(await it.client.send("c1", "x").catch((error: ClientError) => error.outcome)).toBe("unknown");
  gateway[Symbol.dispose]();
  await eventually(async () => {
    const error = it.client.send("c1", "y").catch((caught: ClientError) => caught);
    expect(await error).toMatchObject({ code: "DEADLINE_EXCEEDED", outcome: "failed" });
  });
});

test("what was sent and never answered is seen by its sender, if it was committed", async () => {
  let wasSent = false;
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method === "message.send") wasSent = true;
    else if (frame.method === "sync") {
      connection.answer(frame, { conversations: [synced("resumed", wasSent ? [1] : [])] });
    } else return undefined;
    return true;
  });
  using it = await follow(gateway, { timeoutMs: 150 });
  expect(await it.client.send("c1", "x").catch((error: ClientError) => error.outcome)).toBe("unknown");
  await eventually(() => expect(it.texts).toEqual(["text 1"]));
});

test("a request that the server could never take is refused here, without losing the connection", async () => {
  using gateway = startScriptedGateway(obliging());
  using it = await follow(gateway);
  const error = it.client.send("c1", "x".repeat(70_000)).catch((caught: ClientError) => caught.code);
  expect(await error).toBe("TOO_LARGE");
  await it.client.send("c1", "small");
  expect(gateway.connections.length).toBe(1);
});

test("a hole is asked for by cursor, and what came behind it is handed on after it, once", async () => {
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "sync") return undefined;
    const [cursor] = frame.params.cursors as { seq: number }[];
    const missing = [1, 2, 3, 4].filter((seq) => seq > cursor!.seq);
    connection.answer(frame, { conversations: [synced("resumed", cursor!.seq === 0 ? [] : missing)] });
    return true;
  });
  using it = await follow(gateway);
  const [connection] = gateway.connections;
  for (const seq of [1, 2, 2, 5, 4]) connection!.message(seq);
  await eventually(() => expect(it.texts).toEqual([1, 2, 3, 4, 5].map((seq) => `text ${seq}`)));
  expect(gateway.of("sync").at(-1)!.params.cursors).toEqual([{ conversation: "c1", epoch: "e1", seq: 2, id: "id-2" }]);
  expect(gateway.of("sync").length).toBe(2);
});

test("one's own acknowledgement may overtake others' notifications without a question", async () => {
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method === "sync") connection.answer(frame, { conversations: [synced("resumed", [])] });
    if (frame.method === "message.send") {
      connection.answer(frame, { id: "id-3", conversation: "c1", seq: 3, sentAt: 1 });
      // At once, for a hole that stays open for 300 ms is asked about.
      for (const seq of [1, 2]) connection.message(seq);
    }
    return true;
  });
  using it = await follow(gateway);
  await it.client.send("c1", "mine");
  await eventually(() => expect(it.texts).toEqual(["text 1", "text 2", "mine"]));
  expect(gateway.of("sync").length).toBe(1);
});

test("after a reconnect live frames wait for the end of the catch-up, page by page", async () => {
  let connections = 0;
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "sync") return undefined;
    const [cursor] = frame.params.cursors as { seq: number }[];
    if (gateway.connections.length === 1) connection.answer(frame, { conversations: [synced("resumed", [])] });
    else if (cursor!.seq === 1) {
      connections += 1;
      connection.message(5);
      connection.answer(frame, { conversations: [synced("resumed", [2, 3], { head: 5, more: true })] });
    } else connection.answer(frame, { conversations: [synced("resumed", [4, 5])] });
    return true;
  });
  using it = await follow(gateway);
  gateway.connections[0]!.message(1);
  await eventually(() => expect(it.texts.length).toBe(1));
  gateway.connections[0]!.socket.close(4008, "too slow");
  await eventually(() => expect(it.texts).toEqual([1, 2, 3, 4, 5].map((seq) => `text ${seq}`)));
  expect(connections).toBe(1);
});

test("a timeline that does not join up is told before what follows", async () => {
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "sync") return undefined;
    const [first, second] = [synced("gap", [8, 9]), synced("reset", [2, 3], { epoch: "e2" })];
    const count = gateway.of("sync").length;
    connection.answer(frame, { conversations: [count === 1 ? first : second] });
    return true;
  });
  using it = await follow(gateway);
  await eventually(() => expect(it.texts).toEqual(["text 8", "text 9"]));
  expect(it.resyncs).toEqual([{ conversation: "c1", verdict: "gap", after: 0, next: 8 }]);
  gateway.connections[0]!.notify("session.resync", { reason: "outbox" });
  await eventually(() => expect(it.texts).toEqual(["text 8", "text 9", "text 2", "text 3"]));
  expect(it.resyncs.at(-1)).toEqual({ conversation: "c1", verdict: "reset", after: 0, next: 2 });
  expect(it.client.cursors()).toEqual([{ conversation: "c1", epoch: "e2", seq: 3, id: "id-3" }]);
});

test("being taken in begins a timeline, being taken out ends it", async () => {
  using gateway = startScriptedGateway();
  using it = await follow(gateway, { cursors: [] });
  const [connection] = gateway.connections;
  const member = (seq: number, action: string) => ({
    ...{ kind: "member", seq, id: `id-${seq}`, by: "bob", at: 1, action, users: ["alice"] },
  });
  const view = { id: "c1", type: "group", title: "", epoch: "e1", head: 7, created: 1, memberCount: 2 };
  connection!.notify("member", { conversation: "c1", seq: 7, entry: member(7, "added") });
  connection!.notify("conversation", { conversation: view, seq: 7, entry: member(7, "added") });
  connection!.message(8);
  await eventually(() => expect(it.texts).toEqual(["text 8"]));
  expect(it.client.cursors()).toEqual([{ conversation: "c1", epoch: "e1", seq: 8, id: "id-8" }]);
  connection!.notify("conversation", { conversation: view, seq: 9, entry: member(9, "removed") });
  await eventually(() => expect(it.client.cursors()).toEqual([]));

  // Told again of the time before, it stays out; taken in again, it goes on from there.
  connection!.notify("conversation", { conversation: view, seq: 7, entry: member(7, "added") });
  for (const seq of [7, 8]) connection!.message(seq);
  connection!.notify("member", { conversation: "c1", seq: 12, entry: member(12, "added") });
  connection!.message(13);
  await eventually(() => expect(it.texts).toEqual(["text 8", "text 13"]));
  expect(gateway.of("sync").length).toBe(1);
});

test("a draining server's wait is honoured, and a final close code ends it", async () => {
  using gateway = startScriptedGateway(obliging());
  using it = await follow(gateway);
  const closed = performance.now();
  gateway.connections[0]!.notify("session.closing", { reason: "draining", reconnectInMs: 400 });
  gateway.connections[0]!.socket.close(4000, "draining");
  await eventually(() => expect(gateway.connections.length).toBe(2));
  expect(performance.now() - closed).toBeGreaterThanOrEqual(390);
  await eventually(() => expect(gateway.of("sync").length).toBe(2));
  const ended = Promise.withResolvers<ClientError>();
  it.client.on("ended", ({ error }) => ended.resolve(error));
  gateway.connections[1]!.socket.close(4503, "kicked");
  expect((await ended.promise).message).toContain("4503");
  expect(await it.client.send("c1", "x").catch((error: ClientError) => error.outcome)).toBe("failed");
});

test("a refused token ends it; getToken is asked for another", async () => {
  using gateway = startScriptedGateway();
  const refused = connect({ url: gateway.url, token: "bad" });
  expect(await refused.ready().catch((error: ClientError) => error.code)).toBe("UNAUTHENTICATED");
  const tokens = ["bad", "good"];
  const renewed = connect({ url: gateway.url, getToken: () => tokens.shift()! });
  expect(await renewed.ready()).toMatchObject({ user: "alice" });
  renewed.close();
});

test("a gateway that falls silent is left for another address", async () => {
  using silent = startScriptedGateway((frame) => frame.method === "session.ping", 80);
  using lively = startScriptedGateway(obliging());
  using it = await follow(silent, { url: [silent.url, lively.url] });
  silent[Symbol.dispose]();
  await eventually(() => expect(lively.connections.length).toBe(1));
  expect(await it.client.send("c1", "x")).toMatchObject({ seq: 1 });
});

test("an expired token is renewed, and what was under way goes on", async () => {
  const oblige = obliging();
  let isFirst = true;
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "message.send" || !isFirst) return oblige(frame, connection);
    isFirst = false;
    connection.socket.close(4502, "the token has expired");
    return true;
  });
  let asked = 0;
  const getToken = async () => {
    asked += 1;
    return "good";
  };
  using it = await follow(gateway, { getToken });
  expect(await it.client.send("c1", "x")).toMatchObject({ seq: 1 });
  expect(asked).toBe(2);
});

test("two tokens refused in a row end it, however long the server was away before", async () => {
  using gateway = startScriptedGateway();
  const answers = ["none", "none", "stale", "good", "stale", "stale"];
  const getToken = () => {
    const token = answers.shift()!;
    if (token === "none") throw new Error("the mint is away");
    return token;
  };
  const client = connect({ url: gateway.url, getToken });
  await client.ready();
  const ended = Promise.withResolvers<ClientError>();
  client.on("ended", ({ error }) => ended.resolve(error));
  gateway.connections.at(-1)!.socket.close(4000, "draining");
  expect((await ended.promise).code).toBe("UNAUTHENTICATED");
  expect(answers).toEqual([]);
});

test("what the user read elsewhere while this device was away is told after it has caught up", async () => {
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "sync") return undefined;
    connection.answer(frame, { conversations: [synced("resumed", [1, 2], { read: 2 })] });
    return true;
  });
  const client = connect({ url: gateway.url, token: "good", cursors: [START] });
  using _ = closing(client);
  const told: unknown[] = [];
  client.on("message", ({ message }) => told.push(message.seq));
  client.on("read", (notice) => told.push(notice));
  const { user } = await client.ready();
  await eventually(() => expect(told).toEqual([1, 2, { conversation: "c1", user, seq: 2 }]));
});

test("what only a newer server knows is passed over: notifications, and kinds of entries, which keep their place", async () => {
  const poll = { kind: "poll", seq: 2, id: "id-2", by: "bob", at: 1, target: 1, question: "tea?" };
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "sync") return undefined;
    const { entries, ...rest } = synced("resumed", [1]);
    connection.answer(frame, { conversations: [{ ...rest, entries: [...entries, poll] }] });
    return true;
  });
  using it = await follow(gateway);
  const [connection] = gateway.connections;
  connection!.notify("poll.closed", { conversation: "c1", seq: 3 });
  connection!.message(3);
  await eventually(() => expect(it.texts).toEqual(["text 1", "text 3"]));
  expect(fold(messageOf(1), poll as unknown as Entry)).toEqual(messageOf(1));
  expect(gateway.connections).toHaveLength(1);
});

test("something between that does not speak JSON-RPC is left and tried again", async () => {
  using gateway = startScriptedGateway(obliging());
  using it = await follow(gateway);
  const offline: string[] = [];
  it.client.on("offline", ({ reason }) => offline.push(reason));
  for (const text of ["<html>", "null"]) {
    const before = gateway.of("sync").length;
    gateway.connections.at(-1)!.socket.send(text);
    await eventually(() => expect(gateway.of("sync").length).toBe(before + 1));
  }
  expect(offline).toHaveLength(2);
});

test("waits double up to their limit, half of them by chance, and what a server asks for is never cut short", () => {
  const many = <T>(make: () => T) => Array.from({ length: 200 }, make);
  for (const attempt of [0, 3, 10, 5_000]) {
    const whole = Math.min(10_000, 250 * 2 ** attempt);
    const waits = many(() => backoffMs(attempt, 250, 10_000));
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(whole / 2);
    expect(Math.max(...waits)).toBeLessThanOrEqual(whole);
    expect(new Set(waits).size).toBeGreaterThan(100);
  }
  const asked = many(() => askedMs(1_000));
  expect(Math.min(...asked)).toBeGreaterThanOrEqual(1_000);
  expect(Math.max(...asked)).toBeLessThanOrEqual(1_250);
});

test("history that was overtaken by entries has them in it", async () => {
  const reaction = (seq: number, emoji: string) => ({
    conversation: "c1",
    seq,
    entry: { kind: "reaction", seq, id: `id-${seq}`, by: "bob", at: 1, target: 1, emoji, on: true },
  });
  const reactions = [{ emoji: "ok", count: 1, users: ["bob"] }];
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method === "sync") connection.answer(frame, { conversations: [synced("resumed", [])] });
    if (frame.method === "message.history") {
      // The answer was made between the two.
      connection.notify("message.reaction", reaction(2, "ok"));
      connection.notify("message.reaction", reaction(3, "yes"));
      connection.answer(frame, { epoch: "e1", head: 2, messages: [{ ...messageOf(1), reactions }], more: false });
    }
    return true;
  });
  using it = await follow(gateway);
  gateway.connections[0]!.message(1);
  const { messages } = await it.client.history("c1");
  expect(messages[0]!.reactions).toEqual([...reactions, { emoji: "yes", count: 1, users: ["bob"] }]);
  expect(it.client.cursors()[0]!.seq).toBe(3);
});

test("what is sent by its method's name, or scheduled for a time that has passed, is seen by its sender too", async () => {
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method === "sync") connection.answer(frame, { conversations: [synced("resumed", [])] });
    else if ((frame.params.deliverAt as number) > 1) connection.answer(frame, { scheduled: "s1", deliverAt: 2 });
    else return oblige(frame, connection);
    return true;
  });
  const oblige = obliging();
  using it = await follow(gateway);
  await it.client.request("message.send", { conversation: "c1", clientId: "a", body: { text: "by name" } });
  expect(await it.client.schedule("c1", "late", 1)).toMatchObject({ seq: 2 });
  expect(await it.client.schedule("c1", "later", 2)).toEqual({ scheduled: "s1", deliverAt: 2 });
  expect(it.texts).toEqual(["by name", "late"]);
});

test("a refusal after an answer that was lost leaves the outcome open: the first copy may have been committed", async () => {
  let isFirst = true;
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "message.send") return undefined;
    if (isFirst) connection.socket.terminate();
    else connection.refuse(frame, "NOT_MEMBER");
    isFirst = false;
    return true;
  });
  using it = await follow(gateway);
  const error = await it.client.send("c1", "x").catch((caught: unknown) => caught);
  expect(error).toMatchObject({ code: "NOT_MEMBER", outcome: "unknown" });
});

test("a token of another user ends it: what waits is not his", async () => {
  using gateway = startScriptedGateway();
  const tokens = ["good", "good of bob"];
  const client = connect({ url: gateway.url, getToken: () => tokens.shift()! });
  await client.ready();
  const ended = Promise.withResolvers<ClientError>();
  client.on("ended", ({ error }) => ended.resolve(error));
  gateway.connections[0]!.socket.close(4502, "the token has expired");
  const waiting = client.send("c1", "x").catch((error: ClientError) => error.code);
  expect((await ended.promise).message).toContain("bob");
  expect(await waiting).toBe("CONFLICT");
  expect(gateway.of("message.send")).toEqual([]);
});
