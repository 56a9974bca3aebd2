/** The parts of `bench archive`: filling it, pages of history at any depth, and searches by words of every frequency. */

import { statSync } from "node:fs";
import { SQL } from "bun";
import { type ArchiveStore, type NewEntry, openArchive } from "../../lib/archive/index.ts";
import { FOLDED_PARTS } from "../../lib/im/index.ts";
import { wordsOf } from "../../lib/words.ts";
import { createRandom, type Random } from "../chaos/random.ts";
import { createLatencies } from "../load/latencies.ts";
import type { Past, PastConversation } from "./archive-past.ts";
import { ARCHIVE_GOALS } from "./goals.ts";
import { formatNumber, type Report } from "./report.ts";
import { cpuOf, totalSeconds } from "./usage.ts";

/** As the archive's ingest commits under load (workers/archive/ingest.ts). */
const COMMIT_ENTRIES = 1_000;
const PAGE = 50;
const HITS = 20;
/** As many as one search may name (lib/archive/contract.ts). */
const SEARCHED = 500;
/** The commonest of a language: the, to, i, a, it, … */
const COMMONEST = 10;
/** A word that stands in so small a share of all messages is neither common nor rare. */
const MIDDLING_SHARE = 1 / 500;
const SQLITE = "sqlite://";
/** Calls before those measured: code is compiled, pages are read. */
const WARM = 50;
const SEED = 7;

export interface ArchiveBench {
  readonly report: Report;
  readonly url: string;
  readonly past: Past;
  /** Calls of each kind. */
  readonly calls: number;
}

/** Fills it and closes it. Throws when it holds anything before. */
export async function benchFill({ report, url, past }: ArchiveBench): Promise<void> {
  report.section("Filled in the order of commits, as the ingest does");
  const store = await openArchive(url);
  const before = totalSeconds(cpuOf(process.pid));
  const startedMs = performance.now();
  let written = 0;
  let batch: NewEntry[] = [];
  const commit = async () => {
    const { added } = await store.write(batch);
    if (added !== batch.length) throw new Error("the archive must be empty before the bench fills it");
    written += added;
    batch = [];
  };
  for (const entry of past.entries()) {
    batch.push(entry);
    if (batch.length === COMMIT_ENTRIES) await commit();
  }
  if (batch.length > 0) await commit();
  const seconds = (performance.now() - startedMs) / 1_000;
  const used = totalSeconds(cpuOf(process.pid)) - before;
  report.add({ name: "written", value: written / seconds, unit: "/s", note: `${formatNumber(written)} entries` });
  const note = "of this process, making them up included; SQLite works in it, PostgreSQL does not";
  report.add({ name: "CPU per entry", value: (used / written) * 1e6, unit: "µs", note });
  await store.close();
  // As the server does by itself within a minute: until then it does not know what is common.
  if (!url.startsWith(SQLITE)) await analyze(url);
  if (url.startsWith(SQLITE)) {
    const bytes = statSync(url.slice(SQLITE.length)).size;
    report.add({
      name: "on disk per entry",
      value: bytes / written,
      unit: "bytes",
      note: `${formatNumber(bytes / 1e6)} MB`,
    });
  }
  const { entries } = past.conversations[0]!;
  report.line(
    `${formatNumber(past.conversations.length)} conversations, the largest of ${formatNumber(entries)} entries`,
  );
}

async function analyze(url: string): Promise<void> {
  const sql = new SQL(url);
  await sql.unsafe("ANALYZE");
  await sql.close();
}

export async function benchHistory(bench: ArchiveBench, store: ArchiveStore): Promise<void> {
  const { report, past, calls } = bench;
  report.section(`History: pages of ${PAGE} at random depth`);
  const random = createRandom(SEED);
  const alive = past.conversations.filter(({ entries }) => entries > PAGE);
  const page = (pick: () => PastConversation, newest: boolean) => async () => {
    const { conversation, epoch, entries } = pick();
    const place = random.between(1, entries);
    const found = await store.history({
      ...{ conversation, epoch, limit: PAGE, newest, messagesOnly: true, parts: [...FOLDED_PARTS] },
      ...(newest ? { before: place + 1 } : { after: place - 1 }),
    });
    return found.length;
  };
  const largest = () => past.conversations[0]!;
  for (const [name, pick] of [
    ["the largest", largest],
    ["any", () => random.pick(alive)],
  ] as const) {
    await measure(bench, `${name}, backwards`, ARCHIVE_GOALS.historyP99Ms, calls, page(pick, true));
    await measure(bench, `${name}, forwards`, ARCHIVE_GOALS.historyP99Ms, calls, page(pick, false));
  }
}

export async function benchSearch(bench: ArchiveBench, store: ArchiveStore): Promise<void> {
  const { past } = bench;
  const byActivity = past.conversations.filter(({ entries }) => entries > 0).sort((a, b) => b.lastAt - a.lastAt);
  const bySize = [...byActivity].sort((a, b) => b.entries - a.entries);
  const random = createRandom(SEED);
  const some = bySize.slice(1, SEARCHED);
  const scopes: readonly (readonly [string, () => readonly PastConversation[]])[] = [
    ["One conversation, the largest", () => bySize.slice(0, 1)],
    ["One conversation, any other", () => [random.pick(some)]],
    [`The ${SEARCHED} most recently active conversations`, () => byActivity.slice(0, SEARCHED)],
    [`The ${SEARCHED} smallest conversations`, () => bySize.slice(-SEARCHED)],
  ];
  for (const [title, scope] of scopes) {
    bench.report.section(`Search, ${HITS} hits. ${title}`);
    for (const [name, text] of queriesOf(past, random))
      await measureSearch(bench, store, { name, text, scope, random });
  }
}

/** What people look for, by how many messages have it. */
function queriesOf({ words, rare, lines }: Past, random: Random): readonly (readonly [string, () => string])[] {
  const common = words.slice(0, COMMONEST).map(([word]) => word);
  const middling = words.filter(([, count]) => Math.abs(Math.log(count / lines.length / MIDDLING_SHARE)) < 0.5);
  const linesOfWords = lines.map(wordsOf).filter(({ length }) => length >= 3);
  const rest = () => random.pick(middling)[0];
  return [
    ["the commonest words", () => random.pick(common)],
    ["middling words", rest],
    ["words of one message", () => random.pick(rare)],
    ["two of the commonest", () => `${random.pick(common)} ${random.pick(common)}`],
    ["a common one, a middling one", () => `${random.pick(common)} ${rest()}`],
    ["two middling ones", () => `${rest()} ${rest()}`],
    [
      "three words of a line",
      () => {
        const line = random.pick(linesOfWords);
        return [random.pick(line), random.pick(line), random.pick(line)].join(" ");
      },
    ],
    ["a word that nobody said", () => `zz${random.between(1, 1e9)}`],
  ];
}

interface SearchKind {
  readonly name: string;
  readonly text: () => string;
  readonly scope: () => readonly PastConversation[];
  readonly random: Random;
}

/** Half of the searches ask for the first page, half for the page after a moment of the past. */
async function measureSearch(bench: ArchiveBench, store: ArchiveStore, { name, text, scope, random }: SearchKind) {
  const newest = bench.past.conversations[0]!.lastAt;
  const oldest = newest - 200 * 24 * 3_600_000;
  await measure(bench, name, ARCHIVE_GOALS.searchP99Ms, bench.calls, async () => {
    const conversations = scope();
    const timelines = conversations.map(({ conversation, epoch }) => ({ conversation, epoch }));
    const { conversation } = random.pick(conversations);
    const before = { conversation, seq: 1, at: random.between(oldest, newest) };
    const found = await store.search({
      timelines,
      text: text(),
      limit: HITS,
      ...(random.next() < 0.5 ? { before } : {}),
    });
    return found.length;
  });
}

/**
 * One after another, as the archive's only thread does. `call` resolves with how much it found. The CPU time of the slowest is told,
 * too: on a machine that others use a call waits for them.
 */
async function measure(
  { report, url }: ArchiveBench,
  name: string,
  goalMs: number,
  calls: number,
  call: () => Promise<number>,
): Promise<void> {
  for (let i = 0; i < WARM; i++) await call();
  const [latencies, used] = [createLatencies(), createLatencies()];
  let found = 0;
  for (let i = 0; i < calls; i++) {
    const before = process.cpuUsage();
    const startedMs = performance.now();
    found += await call();
    latencies.record(performance.now() - startedMs);
    const { user, system } = process.cpuUsage(before);
    used.record((user + system) / 1_000);
  }
  const { p50, p99, max } = latencies.percentiles();
  report.add({
    name: `${name} p99`,
    value: p99,
    unit: "ms",
    // The goals are the embedded archive's.
    ...(url.startsWith(SQLITE) ? { goal: { value: goalMs, reached: "at most" } as const } : {}),
    note: `p50 ${formatNumber(p50)}, max ${formatNumber(max)}; CPU p99 ${formatNumber(used.percentiles().p99)}; ${formatNumber(found / calls)} found`,
  });
}
