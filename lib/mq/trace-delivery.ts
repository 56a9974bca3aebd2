/**
 * What one group has made of one entry, as Redis tells it at this moment:
 *
 *   unread ─► in_hand ─► finished            passed_over   addressed to another group, or not among its tags
 *                │  ▲
 *                ▼  │                        dead_letter   buried, and kept as such
 *             retrying · aside · parked      redriven      buried, and brought back as a later entry
 *
 * `finished` is said of all that the group is past: Redis keeps nothing of what went well. Of an ordered group, what lies behind the
 * last commit is `unread` though its holder may have it in hand. Broadcast groups keep nothing at all and are not told of.
 */

import { type Attempts, NO_ATTEMPTS, parseAttempts } from "./attempts.ts";
import type { GroupMode, QueueContext } from "./consumer.ts";
import type { RegisteredGroup } from "./retention.ts";
import { parseAside } from "./side.ts";
import { compareEntries } from "./stream.ts";
import { streamGroupOf } from "./stream-group.ts";

export type TracedState =
  | ("unread" | "in_hand" | "retrying" | "aside" | "parked")
  | ("finished" | "passed_over" | "dead_letter" | "redriven");

export interface TracedDelivery {
  readonly topic: string;
  readonly group: string;
  /** undefined when only its dead letter is left. */
  readonly mode: GroupMode | undefined;
  readonly partition: number;
  readonly entry: string;
  readonly state: TracedState;
  /** Failed attempts so far; of a dead letter and of a message aside in all. Each that is remembered: */
  readonly attemptCount: number;
  readonly attempts: readonly { readonly at: number; readonly member: string; readonly error: string }[];
  /** Who has it in hand, or buried it. `#pull`: an outside service. */
  readonly member?: string;
  /** When it is to be handed out again, or its lease ends, Unix ms by Redis' clock. */
  readonly dueAt?: number;
  /** The dead letter's id. */
  readonly deadLetter?: string;
}

/** An entry as far as groups judge it. */
export interface TracedEntry {
  readonly topic: string;
  readonly partition: number;
  readonly entry: string;
  readonly key: string;
  readonly tag: string;
  /** The only group that it is for; undefined: all. */
  readonly addressedTo: string | undefined;
}

type Found = Pick<TracedDelivery, "state"> &
  Partial<Pick<TracedDelivery, "member" | "dueAt">> & { readonly attempts?: Attempts };

/** A few commands. `tags`: the group's filter, where it is known. Throws Redis errors. */
export async function traceDelivery(
  context: QueueContext,
  entry: TracedEntry,
  group: RegisteredGroup,
  tags: readonly string[] | undefined,
): Promise<TracedDelivery> {
  const { topic, partition } = entry;
  const found =
    (await sideState(context, entry, group.group)) ??
    (group.mode === "ordered"
      ? await orderedState(context, entry, group.group)
      : await concurrentState(context, entry, group));
  const isForAnother = entry.addressedTo !== undefined && entry.addressedTo !== group.group;
  const isPassedOver = isForAnother || (tags !== undefined && !tags.includes(entry.tag));
  const { attempts = NO_ATTEMPTS, state, ...rest } = found;
  return {
    ...{ topic, group: group.group, mode: group.mode, partition, entry: entry.entry },
    state: state === "finished" && isPassedOver ? "passed_over" : state,
    ...toTold(attempts),
    ...rest,
  };
}

function toTold({ failed, history }: Pick<Attempts, "failed" | "history">) {
  return { attemptCount: failed, attempts: history.map(([at, member, error]) => ({ at, member, error })) };
}

/** Copied out of the stream, because its key cannot go on: whatever the checkpoint says, it is not finished. */
async function sideState({ keys, redis }: QueueContext, entry: TracedEntry, group: string): Promise<Found | undefined> {
  const { topic, partition } = entry;
  const key = entry.key || entry.entry;
  if ((await redis.commands.hexists(keys.side(topic, partition, group), entry.entry)) === 0) return undefined;
  const [text, first, due] = await Promise.all([
    redis.commands.hget(keys.aside(topic, partition, group), key),
    redis.commands.zrangebylex(keys.sideOrder(topic, partition, group), `[${key} `, `(${key}!`, "LIMIT", 0, 1),
    redis.commands.zscore(keys.asideDue(topic, partition, group), key),
  ]);
  const record = parseAside(text ?? "");
  if (!record) return { state: "aside" };
  const state = record.state === "parked" ? "parked" : "aside";
  // The record tells of the key's first message; the others wait behind it.
  if (first[0] !== `${key} ${sortable(entry.entry)}`) return { state };
  const isOut = record.state === "out" || record.state === "hand";
  const isTried = record.failed > 0 && state !== "parked";
  return {
    state: isOut ? "in_hand" : isTried ? "retrying" : state,
    attempts: record,
    ...(record.state === "out" ? { member: "#pull" } : {}),
    ...(due === null ? {} : { dueAt: Number(due) }),
  };
}

async function orderedState({ keys, redis }: QueueContext, entry: TracedEntry, group: string): Promise<Found> {
  const { topic, partition } = entry;
  const [[owner, checkpoint, open], record] = await Promise.all([
    redis.commands.hmget(keys.lease(topic, partition, group), "owner", "checkpoint", "open"),
    redis.commands.hget(keys.attempts(topic, partition, group), entry.entry),
  ]);
  const isOpen = (open ?? "").split(" ").includes(entry.entry);
  const attempts = parseAttempts(record ?? "");
  const told = { attempts, ...(owner ? { member: owner } : {}) };
  // Attempts are noted while an entry is unfinished, also of one that no checkpoint has come to.
  if (attempts.failed > 0) return { state: "retrying", ...told };
  if (isOpen) return { state: "in_hand", ...told };
  return { state: compareEntries(entry.entry, checkpoint ?? "0-0") > 0 ? "unread" : "finished" };
}

type Pending = [entry: string, consumer: string, idleMs: number, deliveries: number];

async function concurrentState(
  { keys, redis }: QueueContext,
  entry: TracedEntry,
  { group, generation }: RegisteredGroup,
): Promise<Found> {
  const { topic, partition } = entry;
  const stream = keys.topic(topic, partition);
  const name = streamGroupOf(group, generation);
  const groups = (await redis.commands.xinfo("GROUPS", stream)) as unknown[][];
  const facts = groups.find((fields) => fields[fields.indexOf("name") + 1] === name);
  if (!facts) return { state: "unread" };
  const [pending, record, due] = await Promise.all([
    redis.commands.xpending(stream, name, entry.entry, entry.entry, 1) as unknown as Promise<Pending[]>,
    redis.commands.hget(keys.attempts(topic, partition, group), entry.entry),
    redis.commands.zscore(keys.retries(topic, partition, group), entry.entry),
  ]);
  if (!pending[0]) {
    const position = String(facts[facts.indexOf("last-delivered-id") + 1]);
    return { state: compareEntries(entry.entry, position) > 0 ? "unread" : "finished" };
  }
  const member = pending[0][1];
  const waits = due === null ? {} : { dueAt: Number(due) };
  const attempts = parseAttempts(record ?? "");
  if (member === "#retry") return { state: "retrying", attempts, ...waits };
  return { state: "in_hand", attempts, member, ...waits };
}

/** An entry id as the order of the side queue has it. */
function sortable(entry: string): string {
  const [ms = "0", count = "0"] = entry.split("-");
  return ms.padStart(15, "0") + count.padStart(10, "0");
}
