/** What outlives the app: lives of a client one after the other over one store, against a gateway that does what the test says. */

import { expect, test } from "bun:test";
import { type ClientError, type ConnectOptions, connect, type Kept, type Store } from "../../lib/client/index.ts";
import { createKeeper } from "../../lib/client/store.ts";
import { eventually } from "../support/eventually.ts";
import { type Frame, type ScriptedGateway, startScriptedGateway, synced } from "./scripted-gateway.ts";

const DAY_MS = 24 * 3_600_000;

/** Keeps it as JSON, as a browser's storage does. */
function memory(kept?: Kept): Store & { kept(): Kept | undefined } {
  let text = kept && JSON.stringify(kept);
  return {
    load: () => text && JSON.parse(text),
    save: (now) => {
      text = JSON.stringify(now);
    },
    kept: () => text && JSON.parse(text),
  };
}

const unsent = (text: string, ageMs = 0) => ({
  input: { conversation: "c1", clientId: `id-of-${text}`, type: "text", body: { text } },
  at: Date.now() - ageMs,
});

/** Says nothing to sends until `isAnswering`; then commits them in order. */
function startGateway() {
  const state = { isAnswering: false, head: 0 };
  const gateway = startScriptedGateway((frame, connection) => {
    if (frame.method === "sync") {
      const [cursor] = frame.params.cursors as { seq: number }[];
      connection.answer(frame, { conversations: cursor ? [synced("resumed", [])] : [] });
    } else if (frame.method === "message.send" && state.isAnswering) {
      state.head += 1;
      connection.answer(frame, { id: `id-${state.head}`, conversation: "c1", seq: state.head, sentAt: 1 });
    }
    return true;
  });
  return Object.assign(gateway, { state });
}

const open = (gateway: ScriptedGateway, store: Store, more: Partial<ConnectOptions> = {}) =>
  connect({ url: gateway.url, token: "good", store, ...more });
const sent = (gateway: ScriptedGateway) =>
  gateway.of("message.send").map(({ params }: Frame) => params as { clientId: string; body: { text: string } });

test("unsent messages of one life are sent by the next, first and under their clientIds", async () => {
  using gateway = startGateway();
  const store = memory();
  const first = open(gateway, store);
  const lost = ["one", "two"].map((text) => first.send("c1", text).catch((error: ClientError) => error.outcome));
  await eventually(() => expect(sent(gateway)).toHaveLength(1));
  first.close();
  // The first has left and may be committed; the second waited for it.
  expect(await Promise.all(lost)).toEqual(["unknown", "failed"]);
  expect(store.kept()?.unsent.map(({ input }) => input.body.text)).toEqual(["one", "two"]);

  gateway.state.isAnswering = true;
  const second = open(gateway, store);
  const told: string[] = [];
  second.on("sent", ({ input, reply }) => told.push(`${input.body.text} ${reply.seq}`));
  await second.send("c1", "three");
  expect(told).toEqual(["one 1", "two 2", "three 3"]);
  expect(sent(gateway).map(({ body }) => body.text)).toEqual(["one", "one", "two", "three"]);
  expect(sent(gateway)[1]!.clientId).toBe(sent(gateway)[0]!.clientId);
  expect(second.unsent()).toEqual([]);
  await eventually(() => expect(store.kept()?.unsent).toEqual([]));
  second.close();
});

test("places outlive it too", async () => {
  using gateway = startGateway();
  const store = memory();
  const first = open(gateway, store, { cursors: [{ conversation: "c1", epoch: "e1", seq: 0 }] });
  await first.ready();
  for (const seq of [1, 2]) gateway.connections[0]!.message(seq);
  await eventually(() => expect(first.cursors()[0]?.seq).toBe(2));
  first.close();
  const second = open(gateway, store);
  await second.ready();
  await eventually(() => expect(gateway.of("sync")).toHaveLength(2));
  const place = { conversation: "c1", epoch: "e1", seq: 2, id: "id-2" };
  expect(gateway.of("sync")[1]!.params.cursors).toEqual([place]);
  second.close();
});

test("a kept send outlasts the time of a request", async () => {
  using gateway = startGateway();
  const client = open(gateway, memory(), { timeoutMs: 50 });
  const reply = client.send("c1", "patient");
  await eventually(() => expect(sent(gateway)).toHaveLength(1));
  // Any other request has given up by now.
  expect(await client.history("c1").catch((error: ClientError) => error.code)).toBe("UNKNOWN_OUTCOME");
  gateway.state.isAnswering = true;
  gateway.connections[0]!.socket.terminate();
  expect(await reply).toMatchObject({ seq: 1 });
  client.close();
});

test("what another user left is not sent, nor what is too old to be known again", async () => {
  using gateway = startGateway();
  gateway.state.isAnswering = true;
  const foreign = memory({ user: "bob", cursors: [], unsent: [unsent("of bob")] });
  const client = open(gateway, foreign);
  await client.send("c1", "of alice");
  expect(sent(gateway).map(({ body }) => body.text)).toEqual(["of alice"]);
  client.close();

  const old = open(gateway, memory({ user: "alice", cursors: [], unsent: [unsent("old", DAY_MS), unsent("young")] }));
  const failed = Promise.withResolvers<ClientError>();
  old.on("failed", ({ error }) => failed.resolve(error));
  expect(await failed.promise).toMatchObject({ code: "UNKNOWN_OUTCOME", outcome: "unknown" });
  await eventually(() => expect(old.unsent()).toEqual([]));
  expect(sent(gateway).map(({ body }) => body.text)).toEqual(["of alice", "young"]);
  old.close();
});

test("what is refused for good is told, and not kept", async () => {
  using gateway = startScriptedGateway((frame, connection) => {
    if (frame.method !== "message.send") return undefined;
    connection.refuse(frame, "NOT_MEMBER");
    return true;
  });
  const client = open(gateway, memory({ user: "alice", cursors: [], unsent: [unsent("unwelcome")] }));
  const failed = Promise.withResolvers<string>();
  client.on("failed", ({ input, error }) => failed.resolve(`${input.clientId} ${error.code}`));
  expect(await failed.promise).toBe("id-of-unwelcome NOT_MEMBER");
  expect(client.unsent()).toEqual([]);
  client.close();
});

test("it keeps a thousand messages and no more", async () => {
  const client = connect({ url: "ws://127.0.0.1:1", token: "", store: memory() });
  const sends = Array.from({ length: 1_001 }, (_, i) => client.send("c1", `${i}`).catch((error: ClientError) => error));
  expect(await sends.at(-1)).toMatchObject({ code: "OVERLOADED" });
  expect(client.unsent()).toHaveLength(1_000);
  client.close();
  await Promise.all(sends);
});

test("saves wait for the load and for each other, and the last holds the newest", async () => {
  const loaded = Promise.withResolvers<undefined>();
  const saves: { seq: number; done: () => void }[] = [];
  let seq = 0;
  const keeper = createKeeper({
    store: {
      load: () => loaded.promise,
      save: ({ cursors }) => new Promise((done) => saves.push({ seq: cursors[0]!.seq, done })),
    },
    restore: () => undefined,
    snapshot: () => ({ user: "", cursors: [{ conversation: "c1", epoch: "", seq }], unsent: [] }),
  });
  const change = () => {
    seq += 1;
    keeper.changed(0);
    keeper.flush();
  };
  change();
  expect(saves).toEqual([]);
  loaded.resolve(undefined);
  await keeper.ready;
  expect(saves.map((save) => save.seq)).toEqual([1]);
  for (let i = 0; i < 3; i++) change();
  expect(saves).toHaveLength(1);
  saves[0]!.done();
  await eventually(() => expect(saves.map((save) => save.seq)).toEqual([1, 4]));
});
