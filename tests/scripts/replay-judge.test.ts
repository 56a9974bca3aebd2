/** The judges of a replay are judged: each fault that is planted is counted under its name, and health counts nothing. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Entry } from "../../lib/client/index.ts";
import { createLatencies } from "../../scripts/load/latencies.ts";
import { checkDevices, checkFresh, checkReads, type Held } from "../../scripts/replay/agree.ts";
import type { Act } from "../../scripts/replay/plan.ts";
import { foldAll } from "../../scripts/replay/seen.ts";
import { Stage } from "../../scripts/replay/stage.ts";
import { checkArchive, checkService } from "../../scripts/replay/verify.ts";

const message = (seq: number, text = `text ${seq}`, from = "ann"): Entry => ({
  kind: "message",
  seq,
  id: `id-${seq}`,
  message: { id: `id-${seq}`, conversation: "c", seq, from, type: "text", body: { text }, sentAt: 1 },
});

const member = (seq: number, action: "added" | "left"): Entry => ({
  kind: "member",
  seq,
  id: `id-${seq}`,
  by: "ann",
  at: 1,
  action,
  users: ["cid"],
});

const edit = (seq: number, target: number, text: string): Entry => ({
  ...{ kind: "edit", seq, id: `id-${seq}`, by: "ann", at: 2, target },
  body: { text },
});

const edited = (line: number, text: string): Act => ({ kind: "edit", user: "ann", device: 0, target: line, text });

function makeStage(devices = ["phone"]) {
  const counters = { ackMs: createLatencies(), deliveryMs: createLatencies(), deliveries: 0, caughtUp: 0 };
  const stage = new Stage({ conversation: "c", file: "file.log", devices, counters });
  stage.epoch = "e";
  const commit = (seq: number) => {
    stage.starting(0);
    stage.committed({ seq, id: `id-${seq}`, from: "ann", text: `text ${seq}` });
  };
  const receiveOn = (device: string, user: string, ...entries: Entry[]) => {
    for (const entry of entries) stage.received(user, device, entry, 1);
  };
  const receive = (user: string, ...entries: Entry[]) => receiveOn("phone", user, ...entries);
  return { stage, counters, commit, receive, receiveOn };
}

const heldOf = (entries: readonly Entry[]): Held => ({
  entries: new Map(entries.map((entry) => [entry.seq, entry])),
  messages: foldAll(entries),
});

const HEALTH = { lost: 0, doubled: 0, reordered: 0, different: 0, outside: 0 };

test("members who got everything count nothing, early deliveries and late joiners included", async () => {
  const { stage, counters, commit, receive } = makeStage();
  stage.begin(["ann", "bob"]);
  receive("bob", message(1));
  commit(1);
  receive("ann", message(1));
  stage.joining(["cid"]);
  receive("cid", message(1));
  stage.joined(["cid"], 2);
  for (const user of ["ann", "bob", "cid"]) receive(user, member(2, "added"));
  commit(3);
  for (const user of ["ann", "bob", "cid"]) receive(user, message(3));
  expect(await stage.untilOutstanding(0, 1)).toBe(true);
  stage.left("cid", 1);
  for (const user of ["ann", "bob"]) receive(user, member(4, "left"));
  stage.conclude();
  expect(stage.faults).toEqual(HEALTH);
  expect(counters.deliveries).toBe(3);
});

test("what is missing, doubled, backwards, changed or not theirs is counted", async () => {
  const { stage, commit, receive } = makeStage();
  stage.begin(["ann", "bob", "cid", "dee"]);
  for (const seq of [1, 2, 3]) commit(seq);
  receive("ann", message(1), message(3));
  receive("bob", message(1), message(1), message(2), message(3));
  receive("cid", message(1), message(2, "other text"), message(3));
  receive("dee", message(1));
  receive("eve", message(2));
  expect(await stage.untilOutstanding(0, 1)).toBe(false);
  stage.conclude();
  expect(stage.faults).toEqual({ lost: 1 + 2, doubled: 1, reordered: 0, different: 1, outside: 1 });
  expect(stage.examples.join("\n")).toContain("dee/phone got nothing after 1 of 3");
});

test("an acknowledgement out of place is counted, and so is one text for all that is not what was sent", () => {
  const { stage, commit, receive } = makeStage();
  stage.begin(["bob"]);
  commit(1);
  commit(3);
  commit(2);
  receive("bob", message(1, "not what ann sent"), message(2), message(3));
  stage.conclude();
  expect(stage.faults).toMatchObject({ lost: 1, reordered: 1, different: 1 });
});

test("a device that is offline owes nothing, and everything once it is back", async () => {
  const { stage, counters, commit, receive, receiveOn } = makeStage(["phone", "tablet"]);
  stage.begin(["ann", "bob"]);
  stage.slept("bob", "tablet");
  commit(1);
  receive("ann", message(1));
  receive("bob", message(1));
  receiveOn("tablet", "ann", message(1));
  expect(stage.outstanding).toBe(0);
  stage.woke("bob", "tablet", 1);
  expect(stage.outstanding).toBe(1);
  expect(await stage.untilOutstanding(0, 1)).toBe(false);
  receiveOn("tablet", "bob", message(1));
  expect(await stage.untilOutstanding(0, 1)).toBe(true);
  expect(counters).toMatchObject({ deliveries: 1, caughtUp: 1 });
  stage.slept("bob", "tablet");
  commit(2);
  for (const user of ["ann", "bob"]) receive(user, message(2));
  receiveOn("tablet", "ann", message(2));
  stage.left("bob", 2);
  expect(stage.faults).toEqual(HEALTH);
});

test("a device that wakes while its user leaves had no time to catch up; one that was awake before must have everything", () => {
  const { stage, commit, receive } = makeStage(["phone", "tablet"]);
  stage.begin(["bob", "cid"]);
  for (const user of ["bob", "cid"]) stage.slept(user, "tablet");
  commit(1);
  for (const user of ["bob", "cid"]) receive(user, message(1));
  stage.woke("bob", "tablet", 10);
  stage.woke("cid", "tablet", 10);
  stage.left("bob", 9);
  expect(stage.faults).toEqual(HEALTH);
  receive("cid", member(2, "left"));
  stage.left("cid", 11);
  expect(stage.faults).toMatchObject({ lost: 2 });
  expect(stage.examples.join()).toContain("cid/tablet got nothing after 0 of 2");
});

test("devices that hold other texts than a fresh client are named; what a recall left is the same message", () => {
  const recall: Entry = { kind: "recall", seq: 4, id: "id-4", by: "ann", at: 3, target: 1 };
  const was = [message(1), message(2), edit(3, 2, "new"), recall];
  const recalled = {
    ...message(1, ""),
    message: { ...(message(1) as { message: object }).message, body: {}, recalledAt: 3 },
  };
  const now = [recalled as Entry, ...was.slice(1)];
  const { stage, commit, receive, receiveOn } = makeStage(["phone", "tablet"]);
  stage.begin(["bob"]);
  for (const seq of [1, 2]) commit(seq);
  stage.amended([
    { seq: 2, act: edited(2, "new") },
    { seq: 1, act: { kind: "recall", user: "ann", device: 0, target: 1 } },
  ]);
  receive("bob", ...was);
  receiveOn("tablet", "bob", ...now);
  stage.conclude();
  expect(stage.faults).toEqual(HEALTH);
  expect(checkDevices(new Map([[stage, heldOf(now)]]))).toMatchObject({ messages: 4, ...HEALTH });

  const other = checkDevices(new Map([[stage, heldOf([now[0]!, now[1]!, edit(3, 2, "newer"), recall])]]));
  expect(other).toMatchObject({ ...HEALTH, different: 4 });
  expect(other.examples.join("\n")).toMatch(/c 2: bob\/tablet has .*"text":"new".*, the fresh client .*"text":"newer"/);
});

test("a fresh client whose messages are not what the acts made of them is told from one in health", () => {
  const reaction = (seq: number, by: string, on = true): Entry => ({
    ...{ kind: "reaction", seq, id: `id-${seq}`, by, at: 2, target: 1, on },
    emoji: "+1-",
  });
  const react = (user: string, on = true) => ({
    seq: 1,
    act: { kind: "react", user, device: 0, target: 1, emoji: "+1-", on } as const,
  });
  const health = [message(1), reaction(2, "ann"), reaction(3, "bob"), reaction(4, "ann", false), edit(5, 1, "new")];
  const { stage, commit } = makeStage();
  commit(1);
  stage.amended([react("ann"), react("bob")]);
  stage.amended([react("ann", false), { seq: 1, act: edited(1, "new") }]);
  const look = (entries: readonly Entry[]) => checkFresh(new Map([[stage, heldOf(entries)]]));
  expect(look(health)).toMatchObject({ messages: 1, ...HEALTH });
  const instead = (seq: number, entry: Entry) => health.map((one) => (one.seq === seq ? entry : one));
  expect(look(instead(3, reaction(3, "cid")))).toMatchObject({ ...HEALTH, different: 1 });
  expect(look(instead(4, reaction(4, "cid", false)))).toMatchObject({ ...HEALTH, different: 1 });
  expect(look(instead(5, edit(5, 1, "other")))).toMatchObject({ ...HEALTH, different: 1 });
  expect(look(health.slice(0, -1))).toMatchObject({ ...HEALTH, lost: 1, different: 2 });
});

test("a device that does not know how far its user has read is named", async () => {
  const { stage, commit, receiveOn } = makeStage(["phone", "tablet"]);
  stage.begin(["bob"]);
  for (const seq of [1, 2, 3]) commit(seq);
  for (const device of ["phone", "tablet"])
    receiveOn(device, "bob", message(1), message(2, "text 2", "bob"), message(3));
  const server = (read: number, unread: number) => () => ({
    request: async () => ({ conversations: [{ conversation: "c", read, unread }] }) as never,
  });
  expect(await checkReads(server(2, 1), [stage], 0)).toMatchObject({ messages: 2, ...HEALTH });
  stage.read("bob", "phone", 3);
  const finding = await checkReads(server(3, 0), [stage], 0);
  expect(finding).toMatchObject({ ...HEALTH, different: 1 });
  expect(finding.examples[0]).toContain('bob/tablet has {"read":2,"unread":1}, the server {"read":3,"unread":0}');
});

test("an archive and a ledger that differ are told from those that do not", async () => {
  const { stage, commit } = makeStage();
  for (const seq of [1, 2, 3]) commit(seq);
  const folder = mkdtempSync(join(tmpdir(), "skein-test-judge-"));
  try {
    const held = new Map([[stage, heldOf([1, 2, 3].map((seq) => message(seq)))]]);
    expect(await checkArchive(folder, held, 0)).toBeUndefined();
    using archive = new Database(join(folder, "archive.db"), { create: true });
    archive.run("CREATE TABLE entries (conversation TEXT, epoch TEXT, seq INTEGER, kind TEXT, record TEXT)");
    archive.run("CREATE TABLE parts (conversation TEXT, epoch TEXT, seq INTEGER, part TEXT, text TEXT)");
    const insert = (seq: number, text = `text ${seq}`) => {
      const { message: record } = message(seq, text) as Extract<Entry, { kind: "message" }>;
      archive.run("INSERT INTO entries VALUES ('c', 'e', ?, 'message', ?)", [seq, JSON.stringify(record)]);
    };
    for (const seq of [1, 2, 3]) insert(seq);
    expect(await checkArchive(folder, held, 0)).toMatchObject({ messages: 3, ...HEALTH });
    archive.run("INSERT INTO parts VALUES ('c', 'e', 2, 'content', '4 9 0 {\"text\":\"never\"}')");
    expect(await checkArchive(folder, held, 0)).toMatchObject({ messages: 3, ...HEALTH, different: 1 });
    archive.run("DELETE FROM parts");
    archive.run("DELETE FROM entries WHERE seq > 1");
    insert(3, "changed");
    const faulty = await checkArchive(folder, held, 0);
    expect(faulty!.lost).toBeGreaterThanOrEqual(3);
    expect(faulty!.different).toBeGreaterThanOrEqual(1);
    expect(faulty!.examples.join("\n")).toMatch(/c 3: the archive has .*changed.*, the fresh client .*text 3/);

    using orders = new Database(join(folder, "orders.db"), { create: true });
    orders.run("CREATE TABLE ledger (conversation TEXT, epoch TEXT, last_seq INTEGER, messages INTEGER, digest TEXT)");
    let digest = "";
    for (const { id, text } of stage.lines) {
      digest = new Bun.CryptoHasher("sha256").update(`${digest}${id}\n${text}`).digest("hex");
    }
    orders.run("INSERT INTO ledger VALUES ('c', 'e', 3, 3, ?)", [digest]);
    expect(await checkService(folder, "orders", [stage], 0)).toMatchObject({ messages: 3, ...HEALTH });
    const changed = async (change: string) => {
      orders.run(`UPDATE ledger SET ${change}`);
      return checkService(folder, "orders", [stage], 0);
    };
    expect(await changed("digest = 'x'")).toMatchObject({ different: 1 });
    expect(await changed("messages = 5")).toMatchObject({ doubled: 2 });
    expect(await changed("messages = 1, last_seq = 1")).toMatchObject({ lost: 2, different: 1 });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
