import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { imEvents } from "../../lib/im/index.ts";
import { type Message, openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { keywordsIn } from "../../workers/examples/ads.ts";
import { openLedger } from "../../workers/examples/ledger.ts";
import { ordersIn } from "../../workers/examples/orders.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";
import { startUnit } from "../support/unit.ts";

const ROLES = ["orders", "trades", "ads"] as const;

/** What a message event is to a ledger, without a queue around it. */
function event(seq: number, text: string, more: { epoch?: string; ordinal?: number } = {}): Message<unknown> {
  const message = { seq, id: `m${seq}`, conversation: "c1", from: "ann", type: "text", body: { text }, sentAt: 1 };
  return {
    ...{ id: `m${seq}`, topic: imEvents.name, partition: 0, entry: `${seq}-0`, type: "im.message.created", key: "c1" },
    ...{ sequence: seq, time: 1, raw: JSON.stringify(message), data: message, attempt: 1 },
    ...{ tag: "", expireAt: undefined, originSequence: undefined, redrives: 0 },
    properties: { epoch: more.epoch ?? "e1", ordinal: String(more.ordinal ?? seq) },
  };
}

function digestOf(messages: readonly { id: string; text: string }[]): string {
  let digest = "";
  for (const { id, text } of messages) {
    digest = new Bun.CryptoHasher("sha256").update(`${digest}${id}\n${text}`).digest("hex");
  }
  return digest;
}

/** A ledger whose effect is a table of the texts it was given. */
function setup(effect: (text: string) => void = () => undefined) {
  const folder = temporaryFolder("ledger");
  const path = join(folder.path, "data", "seen.db");
  const open = () =>
    openLedger({
      path,
      schema: "CREATE TABLE IF NOT EXISTS seen (text TEXT)",
      effect: (database) => {
        const insert = database.prepare("INSERT INTO seen VALUES (?)");
        return (messages) => {
          for (const { body } of messages) {
            insert.run(body.text!);
            effect(body.text!);
          }
        };
      },
    });
  const ledger = open();
  return {
    ledger,
    open,
    texts: () => read<{ text: string }>(path, "SELECT text FROM seen ORDER BY rowid").map(({ text }) => text),
    rows: () => read<LedgerRow>(path, "SELECT * FROM ledger ORDER BY conversation, epoch"),
    [Symbol.dispose]() {
      ledger.close();
      folder[Symbol.dispose]();
    },
  };
}

interface LedgerRow {
  readonly conversation: string;
  readonly epoch: string;
  readonly last_seq: number;
  readonly messages: number;
  readonly missed: number;
  readonly digest: string;
}

function read<Row>(path: string, query: string): Row[] {
  const database = new Database(path, { readonly: true });
  try {
    return database.query<Row, []>(query).all();
  } finally {
    database.close();
  }
}

describe("a ledger", () => {
  test("applies a message once, however often and however batched it comes", async () => {
    using world = setup();
    const events = [event(1, "a"), event(3, "b", { ordinal: 2 }), event(4, "c", { ordinal: 3 })];
    const { record } = world.ledger;

    await record(events);
    await record(events);
    await Promise.all([record(events.slice(0, 2)), record(events.slice(1)), record([...events, ...events])]);

    expect(world.texts()).toEqual(["a", "b", "c"]);
    const digest = digestOf([
      { id: "m1", text: "a" },
      { id: "m3", text: "b" },
      { id: "m4", text: "c" },
    ]);
    expect(world.rows()).toEqual([{ conversation: "c1", epoch: "e1", last_seq: 4, messages: 3, missed: 0, digest }]);
  });

  test("goes on where it was after a reopen, and beside another holder that has overtaken it", async () => {
    using world = setup();
    await world.ledger.record([event(1, "a")]);
    const other = world.open();
    await other.record([event(1, "a"), event(2, "b"), event(3, "c")]);

    await world.ledger.record([event(2, "b"), event(3, "c"), event(4, "d")]);
    await other.record([event(4, "d"), event(5, "e")]);
    other.close();

    expect(world.texts()).toEqual(["a", "b", "c", "d", "e"]);
  });

  test("keeps effect and note together: when the effect fails, neither is there, and the next try has both", async () => {
    let isBroken = true;
    using world = setup((text) => {
      if (isBroken && text === "b") throw new Error("no");
    });
    const events = [event(1, "a"), event(2, "b")];

    await expect(world.ledger.record(events)).rejects.toThrow("no");
    expect(world.texts()).toEqual([]);
    expect(world.rows()).toEqual([]);
    isBroken = false;
    await world.ledger.record(events);

    expect(world.texts()).toEqual(["a", "b"]);
  });

  test("tells what never came, and starts anew with an epoch", async () => {
    using world = setup();
    await world.ledger.record([event(10, "j"), event(12, "l")]);
    await world.ledger.record([event(1, "a", { epoch: "e2" })]);

    expect(world.rows().map(({ epoch, messages, missed }) => [epoch, messages, missed])).toEqual([
      ["e1", 2, 10],
      ["e2", 1, 0],
    ]);
  });
});

describe("what the examples look for", () => {
  test.each([
    ["see #1234 and order 5678", ["1234", "5678"]],
    ["Order no. 99, order number 7; orders: #77 ORDER:1", ["99", "7", "77", "1"]],
    ["#5 and #5 again", ["5"]],
    ["#1234567890123 has 13 digits, border 12 is none, # 4 neither", []],
    ["", []],
  ])("orders in %p", (text, orders) => {
    expect(ordersIn(text)).toEqual(orders);
  });

  test("a text of 16 KB that is made to be slow costs little, and one of a thousand orders counts fifty", () => {
    // What it costs, and not how long others keep it from its work.
    const before = process.cpuUsage();
    for (const piece of ["#", "order ", "orders no ", "1", "order:::", "#1 "])
      ordersIn(piece.repeat(16_384 / piece.length));
    expect(process.cpuUsage(before).user / 1_000).toBeLessThan(2_000);
    expect(ordersIn(Array.from({ length: 1_000 }, (_, i) => `#${i}`).join(" "))).toHaveLength(50);
  });

  test("keywords are whole words in any case, once each", () => {
    expect([...keywordsIn("Install the KERNEL, install a driver; reinstall drivers")]).toEqual([
      "install",
      "kernel",
      "driver",
    ]);
  });
});

describe("orders, trades and ads", () => {
  async function openWorld(name: string) {
    const store = await openTestStore(name);
    const folder = temporaryFolder(name);
    const chat = makeChat(store);
    const sent = new Map<string, { id: string; text: string }[]>();
    return {
      store,
      folder,
      chat,
      sent,
      async send(conversation: string, text: string) {
        const result = await chat.send("ann", conversation, text);
        if (!result.ok) throw result.error;
        const list = sent.get(conversation) ?? [];
        list.push({ id: result.value.id, text });
        sent.set(conversation, list);
      },
      query: <Row>(role: string, text: string) => read<Row>(join(folder.path, `${role}.db`), text),
      /** Every service saw every message once, in order, with this content. */
      expectAll() {
        for (const role of ROLES) {
          const rows = read<LedgerRow>(join(folder.path, `${role}.db`), "SELECT * FROM ledger");
          expect(new Map(rows.map((row) => [row.conversation, [row.messages, row.missed, row.digest]]))).toEqual(
            new Map([...sent].map(([conversation, list]) => [conversation, [list.length, 0, digestOf(list)]])),
          );
        }
      },
      async [Symbol.asyncDispose]() {
        folder[Symbol.dispose]();
        await store[Symbol.asyncDispose]();
      },
    };
  }

  test("each see every message once and in order, and keep what they are after", async () => {
    await using world = await openWorld("examples");
    const groups = await Promise.all(Array.from({ length: 5 }, () => world.chat.group("ann", "bob")));
    for (const [g, group] of groups.entries()) {
      for (let i = 0; i < 10; i++)
        await world.send(group, `message ${i} of #${g + 1}, order ${100 + i}: Kernel kernel`);
      await world.chat.conversations.remove("ann", group, "bob");
      await world.send(group, "the end: update");
    }
    await using unit = await startUnit(world.store, world.folder.path, ...ROLES);
    await eventually(() => world.expectAll());
    expect(await unit.stop()).toBe(0);

    const orders = world.query<{ order: string; n: number }>(
      "orders",
      'SELECT "order", count(*) AS n FROM orders GROUP BY "order" ORDER BY "order"',
    );
    expect(orders).toEqual(
      [...[1, 2, 3, 4, 5].map((g) => [`${g}`, 10]), ...Array.from({ length: 10 }, (_, i) => [`${100 + i}`, 5])]
        .map(([order, n]) => ({ order: String(order), n: Number(n) }))
        .sort((a, b) => (a.order < b.order ? -1 : 1)),
    );
    expect(world.query("trades", "SELECT sum(messages) AS n FROM trades")).toEqual([{ n: 55 }]);
    expect(world.query("ads", "SELECT keyword, sum(messages) AS n FROM ads GROUP BY keyword ORDER BY keyword")).toEqual(
      [
        { keyword: "kernel", n: 50 },
        { keyword: "update", n: 5 },
      ],
    );
  });

  test("count nothing twice when all is delivered again", async () => {
    await using world = await openWorld("examples-again");
    const group = await world.chat.group("ann");
    for (let i = 0; i < 40; i++) await world.send(group, `#${i} kernel`);
    const totals = () =>
      [
        world.query("orders", "SELECT count(*) AS n FROM orders"),
        world.query("trades", "SELECT sum(messages) AS n FROM trades"),
        world.query("ads", "SELECT sum(messages) AS n FROM ads"),
      ].map(([row]) => (row as { n: number }).n);
    {
      await using unit = await startUnit(world.store, world.folder.path, ...ROLES);
      await eventually(() => world.expectAll());
      await unit.stop();
    }
    const { redis, keys, metrics } = world.store;
    for (const role of ROLES) {
      for (let partition = 0; partition < keys.partitions; partition++) {
        await redis.commands.del(keys.lease(imEvents.name, partition, role));
      }
    }
    await world.send(group, "#40 kernel");
    await using unit = await startUnit(world.store, world.folder.path, ...ROLES);
    const queue = openQueue({ redis, keys, clock: systemClock, log: silentLog, metrics, member: "t" });
    await eventually(async () => {
      const { groups } = await queue.describe(imEvents);
      expect(groups.map(({ lag }) => lag)).toEqual([0, 0, 0]);
    });
    world.expectAll();

    expect(totals()).toEqual([41, 41, 41]);
    expect(await unit.stop()).toBe(0);
  });

  test("killed again and again under load, lose, double and reorder nothing", async () => {
    await using world = await openWorld("examples-killed");
    const groups = await Promise.all(Array.from({ length: 6 }, () => world.chat.group("ann", "bob")));
    let isSending = true;
    let count = 0;
    const sending = (async () => {
      while (isSending) {
        count += 1;
        await Promise.all(groups.map((group) => world.send(group, `#${count} kernel`)));
        await Bun.sleep(2);
      }
    })();
    for (let i = 0; i < 3; i++) {
      await using unit = await startUnit(world.store, world.folder.path, ...ROLES);
      const seen = () => world.query<{ n: number }>("ads", "SELECT coalesce(sum(messages), 0) AS n FROM ads")[0]!.n;
      const before = seen();
      await eventually(() => expect(seen()).toBeGreaterThan(before));
      await unit.kill();
    }
    isSending = false;
    await sending;
    await using last = await startUnit(world.store, world.folder.path, ...ROLES);

    await eventually(() => world.expectAll(), 60_000);
    expect(world.query("trades", "SELECT sum(messages) AS n FROM trades")).toEqual([{ n: 6 * count }]);
    expect(world.query("ads", "SELECT sum(messages) AS n FROM ads")).toEqual([{ n: 6 * count }]);
    expect(world.query("orders", "SELECT count(*) AS n FROM orders")).toEqual([{ n: 6 * count }]);
    expect(await last.stop()).toBe(0);
  });
});
