/** What the documents show is run: README's snippets and the tours of lib's doors, as they stand there. */

import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import * as v from "valibot";
import { openArchive } from "../lib/archive/index.ts";
import { systemClock } from "../lib/clock.ts";
import { imEvents } from "../lib/im/index.ts";
import { defineTopic, openQueue, type Queue } from "../lib/mq/index.ts";
import { silentLog } from "../lib/observability/index.ts";
import type { Service } from "../lib/service.ts";
import { openTestChat } from "./support/chat.ts";
import { eventually } from "./support/eventually.ts";
import { temporaryFolder } from "./support/folder.ts";
import { openTestStore } from "./support/redis.ts";
import { startUnit } from "./support/unit.ts";

const AsyncFunction = (async () => undefined).constructor as new (
  ...source: string[]
) => (...values: unknown[]) => Promise<unknown>;
const transpiler = new Bun.Transpiler({ loader: "ts", deadCodeElimination: false, minifyWhitespace: false });

/** The fenced blocks of a Markdown file in one language. */
async function blocks(path: string, language: string): Promise<string[]> {
  const text = await Bun.file(path).text();
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, "gms"))].map(([, block]) => block!);
}

/** The snippet of a door's module comment: its first indented run of lines. */
async function tour(path: string): Promise<string> {
  const text = await Bun.file(path).text();
  const [run] = /(?:^ \* {3}.*\n)+/m.exec(text) ?? [""];
  return run.replaceAll(/^ \* {3}/gm, "");
}

/** Runs TypeScript with the names of `scope` in reach. */
function run(code: string, scope: Readonly<Record<string, unknown>>): Promise<unknown> {
  const body = transpiler.transformSync(`async () => {${code}}`);
  const inner = body.slice(body.indexOf("{") + 1, body.lastIndexOf("}"));
  return new AsyncFunction(...Object.keys(scope), inner)(...Object.values(scope));
}

/** A queue whose consumers are collected, for the snippets that only declare one. */
function collecting(queue: Queue): { queue: Queue; services: Service[] } {
  const services: Service[] = [];
  const consume: Queue["consume"] = (topic, options) => {
    const service = queue.consume(topic, options);
    services.push(service);
    return service;
  };
  return { queue: { ...queue, consume }, services };
}

describe("README", () => {
  const folder = temporaryFolder("readme");
  afterAll(() => folder[Symbol.dispose]());

  test("its calls with curl make a conversation and a message that the orders example finds", async () => {
    await using store = await openTestStore("readme", { partitions: 16 });
    await using chat = await openTestChat(store);
    const keyFile = join(folder.path, "service-key");
    await Bun.write(keyFile, chat.serviceKey);
    const script = (await blocks("README.md", "sh")).find((block) => block.includes("curl"))!;
    const local = script
      .replaceAll("localhost:7400", new URL(chat.url).host)
      .replaceAll(".skein/secrets/service-key", keyFile);
    const shell = Bun.spawn(["bash", "-euo", "pipefail", "-c", local], { stdout: "pipe", stderr: "inherit" });
    const output = await new Response(shell.stdout).text();

    expect(await shell.exited).toBe(0);
    expect(output).toContain('"title":"Team"');
    expect(output).toMatch(/"seq":1\b/);
    await using unit = await startUnit(store, folder.path, "orders");
    const { Database } = await import("bun:sqlite");
    await eventually(() => {
      using database = new Database(join(folder.path, "orders.db"), { readonly: true });
      expect(database.query('SELECT "order", conversation, seq, "from" FROM orders').all()).toEqual([
        { order: "4711", conversation: "team", seq: 1, from: "alice" },
      ]);
    });
    expect(await unit.stop()).toBe(0);
  });

  test("its consumer consumes", async () => {
    await using store = await openTestStore("readme-ts");
    const { redis, keys, metrics } = store;
    const real = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "t" });
    const { queue, services } = collecting(real);
    const found: unknown[] = [];
    for (const code of await blocks("README.md", "ts")) {
      await run(code, { queue, imEvents, findOrders: (...given: unknown[]) => found.push(given) });
    }
    expect(services).not.toHaveLength(0);
    for (const service of services) await service.start();
    const body = { text: "#4711" };
    const data = { id: "m1", conversation: "team", seq: 1, from: "alice", type: "text" as const, body, sentAt: 1 };
    await real.publish(imEvents, { type: "im.message.created", key: "team", sequence: 1, data });
    await eventually(() => expect(found).toEqual([["team", 1, data]]));
    for (const service of services) await service.stop(AbortSignal.timeout(2_000));
  });
});

describe("the tour of a door", () => {
  test("lib/mq publishes and consumes", async () => {
    await using store = await openTestStore("tour-mq");
    const { redis, keys, metrics } = store;
    const printed: unknown[][] = [];
    const scope = { v, defineTopic, openQueue, redis, keys, clock: systemClock, log: silentLog, metrics };
    const code = `${await tour("lib/mq/index.ts")}; return billing;`;
    const billing = (await run(code, {
      ...scope,
      console: { log: (...given: unknown[]) => printed.push(given) },
    })) as Service;
    await eventually(() => expect(printed).toEqual([["customer-7", "tea"]]));
    await billing.stop(AbortSignal.timeout(2_000));
  });

  test("lib/archive writes and reads", async () => {
    using folder = temporaryFolder("tour");
    const config = { archiveUrl: `sqlite://${join(folder.path, "archive.db")}` };
    const entries = [
      { conversation: "c", epoch: "e", seq: 1, kind: "message", id: "m1", ordinal: 1, record: "{}", committedAt: 1 },
    ];
    const code = `${await tour("lib/archive/index.ts")}; await store.close(); return { page, timelines };`;
    expect(await run(code, { openArchive, config, entries, conversation: "c", epoch: "e" })).toMatchObject({
      page: [{ seq: 1, id: "m1" }],
      timelines: [{ conversation: "c", lastSeq: 1 }],
    });
  });
});
