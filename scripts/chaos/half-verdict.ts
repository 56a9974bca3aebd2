/**
 * The verdict on a campaign on half messages, from outside: the evidence of the shop's processes, the topic's streams as Redis holds
 * them, and what each half has become. Clocks of one machine: an entry's ms and the evidence's are of the same clock.
 */

import { AppError } from "../../lib/errors.ts";
import type { HalfState, Queue } from "../../lib/mq/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import { inParallel } from "../load/api.ts";
import type { Decision, HalfLine } from "./half-plan.ts";
import { PARTITIONS, TIMES, TOPIC } from "./half-plan.ts";

/** Every count is 0 in health. */
export interface HalfVerdict {
  /** Messages in the topic before anyone had asked for their commit. */
  visibleEarly: number;
  /** Rolled back or expired, and in the topic. */
  wronglyVisible: number;
  /** Committed, and not in the topic. */
  lost: number;
  /** In the topic more than once. */
  doubled: number;
  /** In the topic, and of no half. */
  foreign: number;
  /** Neither committed nor rolled back nor expired. */
  unresolved: number;
  /** Told as prepared, and unknown to Redis. */
  vanished: number;
  /** Ended in a way that nobody had asked for. */
  undue: number;
  /** A caller was told another state than the half has. */
  contradicted: number;
  /** Checks beyond the last, or long after the half's end. */
  idleChecks: number;
}

export interface HalfFigures {
  readonly halves: number;
  readonly states: Readonly<Record<string, number>>;
  readonly checks: number;
  readonly entries: number;
}

export interface HalfJudgement {
  readonly verdict: HalfVerdict;
  readonly figures: HalfFigures;
  /** Some of what was found, in words. */
  readonly examples: readonly string[];
}

const EXAMPLES_MAX = 10;
const PAGE = 1_000;
/** A check is written down when its process comes to it, which may be a while after Redis handed it out. */
const LATE_MS = 5_000;

interface Entry {
  readonly id: string;
  readonly ms: number;
}

interface Story {
  readonly asked: { decision: Decision; t: number }[];
  readonly told: { state: HalfState; t: number }[];
  readonly checks: { check: number; t: number }[];
}

export async function judgeHalves(
  evidence: readonly HalfLine[],
  { queue, keys, commands }: { readonly queue: Queue; readonly keys: Keys; readonly commands: RedisClient },
): Promise<HalfJudgement> {
  const examples: string[] = [];
  const verdict: HalfVerdict = {
    ...{ visibleEarly: 0, wronglyVisible: 0, lost: 0, doubled: 0, foreign: 0 },
    ...{ unresolved: 0, vanished: 0, undue: 0, contradicted: 0, idleChecks: 0 },
  };
  const found = (kind: keyof HalfVerdict, what: string) => {
    verdict[kind] += 1;
    if (examples.length < EXAMPLES_MAX) examples.push(`${kind}: ${what}`);
  };
  const stories = storiesOf(evidence);
  const known = evidence.flatMap((line) => (line.e === "prepared" ? [line.id] : []));
  const kept = await idsOf(keys, commands);
  const ids = [...new Set([...known, ...kept])];
  const states = new Map<string, HalfState>();
  await inParallel(ids, async (id) => {
    const state = await stateOf(queue, id);
    if (state === undefined) found("vanished", id);
    else states.set(id, state);
  });
  const entries = await entriesOf(keys, commands);
  const counts: Record<string, number> = {};
  for (const [id, state] of states) {
    counts[state] = (counts[state] ?? 0) + 1;
    judgeEnd(id, state, stories.get(id), found);
    const visible = entries.get(id) ?? [];
    if (state !== "committed" && visible.length > 0) found("wronglyVisible", `${id} is ${state}`);
    if (state === "committed" && visible.length === 0) found("lost", id);
    if (visible.length > 1) found("doubled", `${id}: ${visible.map(({ ms }) => ms).join(", ")}`);
    const asked = stories.get(id)?.asked.filter(({ decision }) => decision === "commit") ?? [];
    for (const { ms } of visible) {
      if (!asked.some(({ t }) => t <= ms)) found("visibleEarly", `${id} at ${ms}`);
    }
  }
  for (const id of entries.keys()) if (!states.has(id)) found("foreign", id);
  const checks = evidence.filter(({ e }) => e === "check").length;
  return { verdict, examples, figures: { halves: states.size, states: counts, checks, entries: entries.size } };
}

function judgeEnd(
  id: string,
  state: HalfState,
  { asked, told, checks }: Story = { asked: [], told: [], checks: [] },
  found: (kind: keyof HalfVerdict, what: string) => void,
): void {
  if (state === "prepared") found("unresolved", id);
  const wanted = state === "committed" ? "commit" : state === "rolled_back" ? "rollback" : undefined;
  if (wanted && !asked.some(({ decision }) => decision === wanted)) found("undue", `${id} is ${state}`);
  for (const each of told) if (each.state !== state) found("contradicted", `${id} is ${state}, not ${each.state}`);
  const endedMs = Math.min(...told.map(({ t }) => t));
  for (const { check, t } of checks) {
    if (check > TIMES.checkWaitsMs!.length || t > endedMs + LATE_MS) found("idleChecks", `${id}: check ${check}`);
  }
}

function storiesOf(evidence: readonly HalfLine[]): ReadonlyMap<string, Story> {
  const stories = new Map<string, Story>();
  for (const line of evidence) {
    if (line.e === "prepared") continue;
    const story = stories.get(line.id) ?? { asked: [], told: [], checks: [] };
    stories.set(line.id, story);
    if (line.e === "asked") story.asked.push(line);
    else if (line.e === "told") story.told.push(line);
    else story.checks.push(line);
  }
  return stories;
}

async function stateOf(queue: Queue, id: string): Promise<HalfState | undefined> {
  try {
    return (await queue.transactions.get(id)).state;
  } catch (error) {
    if (error instanceof AppError && error.code === "NOT_FOUND") return undefined;
    throw error;
  }
}

/** Every half that Redis knows of, also those whose producer died before it heard the id. */
async function idsOf(keys: Keys, commands: RedisClient): Promise<string[]> {
  const ids: string[] = [];
  for (let partition = 0; partition < PARTITIONS; partition++) {
    const fields = await commands.hkeys(keys.half(partition));
    ids.push(...fields.filter((field) => !field.includes("/")));
  }
  return ids;
}

async function entriesOf(keys: Keys, commands: RedisClient): Promise<ReadonlyMap<string, Entry[]>> {
  const entries = new Map<string, Entry[]>();
  for (let partition = 0; partition < PARTITIONS; partition++) {
    for (let from = "-"; ; ) {
      const page = await commands.xrange(keys.topic(TOPIC, partition), from, "+", "COUNT", PAGE);
      for (const [entry, [header]] of page) {
        const id = header!.split(" ", 1)[0]!;
        entries.set(id, [...(entries.get(id) ?? []), { id, ms: Number(entry.split("-")[0]) }]);
      }
      if (page.length < PAGE) break;
      from = `(${page.at(-1)![0]}`;
    }
  }
  return entries;
}
