import { expect, test } from "bun:test";
import { AppError } from "../../lib/errors.ts";
import type { Outcome } from "../../lib/rpc/index.ts";
import { eventually } from "../support/eventually.ts";
import { startTestRedis } from "../support/redis-server.ts";
import { openTestRpc, spawnServer, testContract } from "./support.ts";

/** Of a call that may wait for a lease of 4 s, or for thousands of others, on a machine that is busy with other tests. */
const PATIENT = { timeoutMs: 20_000 };

test("calls of one tick travel as one request, in order, and each item has its own outcome", async () => {
  await using rpc = await openTestRpc("rpc-batch");
  const batches: string[][] = [];
  await rpc.serve(rpc.node("logic"), {
    append: async (inputs) => {
      batches.push(inputs.map((input) => input.text));
      return inputs.map(({ text }, i): Outcome<{ place: number }> => {
        if (text === "bad") return { ok: false, error: new AppError("CONFLICT") };
        return { ok: true, value: { place: i } };
      });
    },
  });
  const logic = rpc.client();
  const results = await Promise.allSettled(["a", "bad", "x".repeat(65), "b"].map((text) => logic.append({ text })));
  expect(batches).toEqual([["a", "bad", "b"]]);
  expect(results.map((result) => (result.status === "fulfilled" ? result.value.place : result.reason.code))).toEqual([
    ...[0, "CONFLICT", "INVALID", 2],
  ]);
});

test("what arrives while a batch is under way goes with the next; a large batch is split", async () => {
  await using rpc = await openTestRpc("rpc-nagle");
  const batches: number[] = [];
  const seen: string[] = [];
  const gate = Promise.withResolvers<void>();
  await rpc.serve(rpc.node("logic"), {
    append: async (inputs) => {
      batches.push(inputs.length);
      seen.push(...inputs.map((input) => input.text));
      await gate.promise;
      return inputs.map(() => ({ ok: true, value: { place: 1 } }));
    },
  });
  const logic = rpc.client();
  const texts = Array.from({ length: 601 }, (_, i) => `key ${i}`);
  const calls = [logic.append({ text: texts[0]! })];
  await eventually(() => expect(batches).toEqual([1]));
  for (const text of texts.slice(1)) calls.push(logic.append({ text }));
  gate.resolve();
  await Promise.all(calls);
  expect(batches).toEqual([1, 256, 256, 88]);
  expect(seen).toEqual(texts);
});

test("an idempotent call survives the death of its server; a call that may have run does not run twice", async () => {
  await using rpc = await openTestRpc("rpc-kill");
  const first = await spawnServer(rpc, "logic-a");
  const second = await spawnServer(rpc, "logic-b");
  const logic = rpc.client();
  const servers = new Set(
    (await Promise.all(texts("warm", 20).map((text) => logic.echo({ text })))).map(({ by }) => by),
  );
  expect(servers).toEqual(new Set(["logic-a", "logic-b"]));
  const calls: Promise<unknown>[] = [];
  for (let i = 0; i < 400; i++) {
    calls.push(logic.echo({ text: `${i}` }), logic.append({ text: `k${i % 20} ${i}` }));
    if (i === 200) first.kill("SIGKILL");
    if (i % 50 === 0) await Bun.sleep(1);
  }
  await Promise.all(calls);
  expect((await logic.echo({ text: "after" })).by).toBe("logic-b");
  second.kill("SIGKILL");
  await Promise.all([first.exited, second.exited]);
});

test("a call that may have run ends as unknown when its server dies", async () => {
  await using rpc = await openTestRpc("rpc-unknown");
  const started = Promise.withResolvers<void>();
  let runs = 0;
  const server = await rpc.serve(rpc.node("logic"), {
    count: () => {
      runs += 1;
      started.resolve();
      return new Promise(() => undefined);
    },
  });
  const call = rpc.client().count({ text: "a" });
  await started.promise;
  await server.stop(AbortSignal.abort());
  expect(await codeOf(call)).toBe("UNKNOWN_OUTCOME");
  expect(runs).toBe(1);
});

test("a restart of the only instance loses no call: they wait, in order, for its successor", async () => {
  await using rpc = await openTestRpc("rpc-restart");
  const seen: string[] = [];
  const append = async (inputs: readonly { text: string }[]) => {
    seen.push(...inputs.map((input) => input.text));
    return inputs.map((): Outcome<{ place: number }> => ({ ok: true, value: { place: 1 } }));
  };
  const logic = rpc.client();
  const sent: string[] = [];
  const calls: Promise<unknown>[] = [];
  const send = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const text = `k${sent.length % 3} ${sent.length}`;
      sent.push(text);
      calls.push(logic.append({ text }, PATIENT));
      if (i % 10 === 0) await Bun.sleep(1);
    }
  };
  let server = await rpc.serve(rpc.node("logic"), { append });
  for (let round = 0; round < 3; round++) {
    await send(60);
    const stopped = server.stop();
    await send(60);
    await stopped;
    await send(60);
    server = await rpc.serve(rpc.node("logic"), { append });
  }
  await Promise.all(calls);
  expect(seen).toEqual(sent);
});

test("a draining instance finishes what is under way and gets no new calls", async () => {
  await using rpc = await openTestRpc("rpc-drain");
  const gate = Promise.withResolvers<void>();
  const started = Promise.withResolvers<void>();
  const old = await rpc.serve(rpc.node("logic", { instance: "logic-old" }), {
    echo: async ({ text }) => {
      started.resolve();
      await gate.promise;
      return { text, by: "old" };
    },
  });
  const logic = rpc.client();
  const underWay = logic.echo({ text: "first" });
  await started.promise;
  await rpc.serve(rpc.node("logic", { instance: "logic-new" }), { echo: async ({ text }) => ({ text, by: "new" }) });
  const stopped = old.stop();
  for (const text of texts("next", 20)) expect((await logic.echo({ text })).by).toBe("new");
  gate.resolve();
  expect((await underWay).by).toBe("old");
  await stopped;
});

test("calls of one key go to one instance, and only its own keys move when it goes", async () => {
  await using rpc = await openTestRpc("rpc-affinity");
  const homes = new Map<string, string[]>();
  const append = (by: string) => async (inputs: readonly { text: string }[]) =>
    inputs.map(({ text }): Outcome<{ place: number }> => {
      homes.set(text, [...(homes.get(text) ?? []), by]);
      return { ok: true, value: { place: 1 } };
    });
  const servers = new Map<string, { stop(): Promise<void> }>();
  for (const by of ["a", "b", "c"]) {
    servers.set(by, await rpc.serve(rpc.node("logic", { instance: `logic-${by}` }), { append: append(by) }));
  }
  const logic = rpc.client();
  const keys = texts("key", 60).map((text) => text.replace(" ", "-"));
  for (let round = 0; round < 3; round++) await Promise.all(keys.map((text) => logic.append({ text })));
  const before = new Map(keys.map((key) => [key, new Set(homes.get(key))]));
  for (const home of before.values()) expect(home.size).toBe(1);
  expect(new Set([...before.values()].flatMap((home) => [...home])).size).toBe(3);
  await servers.get("b")!.stop();
  homes.clear();
  await Promise.all(keys.map((text) => logic.append({ text })));
  for (const key of keys) {
    const [home] = before.get(key)!;
    if (home !== "b") expect(homes.get(key)).toEqual([home!]);
  }
});

test("the breaker keeps calls away from an instance that does not answer, and lets it back", async () => {
  await using rpc = await openTestRpc("rpc-breaker");
  const child = await spawnServer(rpc, "logic-a");
  await rpc.serve(rpc.node("logic", { instance: "logic-b" }));
  const logic = rpc.client();
  child.kill("SIGSTOP");
  let lost = 0;
  for (let i = 0; i < 60; i++) {
    const code = await codeOf(logic.echo({ text: "a" }, { timeoutMs: 150 }));
    if (code !== "ok") lost += 1;
  }
  // Three, and some that try it again or that a busy machine was late with; without a breaker it is every second one.
  expect(lost).toBeWithin(1, 15);
  child.kill("SIGCONT");
  await eventually(async () => expect((await logic.echo({ text: "a" })).by).toBe("logic-a"));
  child.kill("SIGKILL");
  await child.exited;
});

test("calls to a paused instance move on when its lease ends, within their deadline and in order", async () => {
  await using rpc = await openTestRpc("rpc-paused");
  const child = await spawnServer(rpc, "logic-a");
  const seen: string[] = [];
  await rpc.serve(rpc.node("logic", { instance: "logic-b" }), {
    append: async (inputs) => {
      seen.push(...inputs.map((input) => input.text));
      return inputs.map(() => ({ ok: true, value: { place: 1 } }));
    },
  });
  const logic = rpc.client();
  const keys = texts("key", 24).map((text) => text.replace(" ", "-"));
  await Promise.all(keys.map((key) => logic.append({ text: `${key} warm` })));
  const moving = keys.filter((key) => !seen.includes(`${key} warm`));
  expect(moving).not.toEqual([]);
  child.kill("SIGSTOP");
  seen.length = 0;
  const sent = texts("n", 5).flatMap((text) => moving.map((key) => `${key} ${text}`));
  const calls: Promise<unknown>[] = [];
  for (const text of sent) {
    calls.push(logic.append({ text }, PATIENT));
    await Bun.sleep(1);
  }
  await Promise.all(calls);
  for (const key of moving) {
    const of = (list: string[]) => list.filter((text) => text.startsWith(`${key} `));
    expect(of(seen)).toEqual(of(sent));
  }
  child.kill("SIGKILL");
  await child.exited;
});

test("calls beyond what may be pending are refused at once", async () => {
  await using rpc = await openTestRpc("rpc-overload");
  const gate = Promise.withResolvers<void>();
  await rpc.serve(rpc.node("logic"), {
    append: async (inputs) => {
      await gate.promise;
      return inputs.map(() => ({ ok: true, value: { place: 1 } }));
    },
  });
  const logic = rpc.client();
  await eventually(async () => expect(await codeOf(logic.echo({ text: "a" }))).toBe("ok"));
  const calls = Array.from({ length: 8_200 }, () => codeOf(logic.append({ text: "a" }, PATIENT)));
  expect(await Promise.race(calls)).toBe("OVERLOADED");
  gate.resolve();
  const codes = await Promise.all(calls);
  expect(codes.filter((code) => code === "ok")).toHaveLength(8_192);
  expect(codes.filter((code) => code === "OVERLOADED")).toHaveLength(8);
});

test("while Redis is away calls go on by the last view", async () => {
  const redis = await startTestRedis();
  await using rpc = await openTestRpc("rpc-away", redis.url);
  await rpc.serve(rpc.node("logic"));
  const node = rpc.node("gateway");
  const logic = node.client(testContract);
  await logic.echo({ text: "a" });
  expect(await node.live("logic")).toEqual(["logic-1"]);
  redis.kill("SIGKILL");
  for (let i = 0; i < 10; i++) {
    await logic.echo({ text: "a" });
    await Bun.sleep(60);
  }
  expect(await node.live("logic")).toEqual(["logic-1"]);
  await redis.restart();
  await eventually(async () => expect(await rpc.store.redis.commands.hlen(rpc.store.keys.registry("logic"))).toBe(1));
  await redis.stop();
});

function texts(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${name} ${i}`);
}

async function codeOf(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => "ok",
    (error: unknown) => (error instanceof AppError ? error.code : String(error)),
  );
}
