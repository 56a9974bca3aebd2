/**
 * Reading along with a topic, without a group: all partitions side by side from a place that the reader keeps. Nothing is written, and
 * trimming does not wait. Behind each message stands a cursor, the place in every partition after it; a tail that is opened
 * with it goes on exactly there, with nothing twice and nothing left out, as long as the entries are kept.
 *
 *   orders~mc3k2j1a-0~~mc3k2j4z-2~…      topic, then by partition the last entry passed, ms and count in base 36; empty: none
 *
 * Memory is bounded: while AHEAD_MAX messages or AHEAD_BYTES_MAX of them wait to be taken nothing is read.
 */

import { AppError } from "../errors.ts";
import { toAppError } from "../redis/index.ts";
import type { QueueContext, StartPoint } from "./consumer.ts";
import { positionBefore } from "./group.ts";
import { Delivery, type Message, type StreamEntry } from "./message.ts";
import { Reader, type ReadTarget } from "./reader.ts";
import { isSelected } from "./selection.ts";
import { compareEntries, streamFacts } from "./stream.ts";
import type { Topic } from "./topic.ts";

/** Messages read and not taken, and what they may hold. One read may pass it. */
const AHEAD_MAX = 256;
const AHEAD_BYTES_MAX = 1024 * 1_024;
/** Messages taken together hold no more, or are one: a client that reads slowly is kept so much of. */
const TAKEN_BYTES_MAX = 256 * 1_024;
/** A tail is looked at by eye or by one small service: no need for large reads. */
const BATCH_MAX = 64;
const NOTHING = "0-0";
const CURSOR_POSITION = /^([0-9a-z]{1,10})-([0-9a-z]{1,13})$/;

/** A message, and the cursor behind it. */
export interface Tailed {
  readonly message: Message<unknown>;
  readonly cursor: string;
}

export interface Tail {
  /** The cursor of where it began. */
  readonly cursor: string;
  /** Of a tail that was opened with a cursor: some of what lay behind it may have been trimmed. */
  readonly hasGap: boolean;
  /** The next messages, at most `max`, in order per partition. Waits `waitMs` for the first; then, or when `signal` aborts, none. */
  next(max: number, waitMs: number, signal: AbortSignal): Promise<readonly Tailed[]>;
  close(): Promise<void>;
}

/** Opens a tail. Throws INVALID when a cursor is not one of this topic, and Redis errors as AppErrors. */
export async function openTail(
  context: QueueContext,
  topic: Topic<unknown>,
  after: StartPoint | { readonly cursor: string },
): Promise<Tail> {
  const { keys, redis } = context;
  const numbers = Array.from({ length: keys.partitions }, (_, partition) => partition);
  const given =
    typeof after === "object" && "cursor" in after ? parseCursor(after.cursor, topic.name, keys.partitions) : undefined;
  try {
    const positions =
      given ??
      (await Promise.all(numbers.map((partition) => beginningOf(context, topic.name, partition, after as StartPoint))));
    const gaps = given
      ? await Promise.all(
          given.map((position, partition) => isGapBehind(redis.commands, keys.topic(topic.name, partition), position)),
        )
      : [];
    return new RunningTail(context, topic, positions, gaps.includes(true));
  } catch (error) {
    throw toAppError(error);
  }
}

/** The last entry that is not to be read. */
async function beginningOf(
  context: QueueContext,
  topic: string,
  partition: number,
  after: StartPoint,
): Promise<string> {
  if (after === "first") return NOTHING;
  if (after !== "latest") return positionBefore(after);
  return (await streamFacts(context.redis.commands, context.keys.topic(topic, partition)))?.last ?? NOTHING;
}

/** Whether entries behind the position may be gone: it is older than all that is kept, and something was trimmed. */
async function isGapBehind(
  commands: QueueContext["redis"]["commands"],
  stream: string,
  position: string,
): Promise<boolean> {
  const facts = await streamFacts(commands, stream);
  // A stream that ends before the position was lost as a whole, and made anew.
  if (!facts || compareEntries(facts.last, position) < 0) return position !== NOTHING;
  return facts.added > facts.length && compareEntries(facts.first, position) > 0;
}

class RunningTail implements Tail {
  readonly cursor: string;
  readonly hasGap: boolean;
  readonly #context: QueueContext;
  readonly #topic: string;
  readonly #readers: Reader[] = [];
  readonly #partitions: TailPartition[];
  /** By partition, the last entry that was taken. */
  readonly #passed: string[];
  #ahead: Delivery<unknown>[] = [];
  #aheadBytes = 0;
  #arrived: (() => void) | undefined;

  constructor(context: QueueContext, topic: Topic<unknown>, positions: readonly string[], hasGap: boolean) {
    this.#context = context;
    this.#topic = topic.name;
    this.#passed = [...positions];
    this.cursor = formatCursor(topic.name, positions);
    this.hasGap = hasGap;
    const limits = { batchMax: BATCH_MAX, inFlightMax: AHEAD_MAX, lingerMs: 0, replyBytesMax: AHEAD_BYTES_MAX };
    // In a Cluster a read must not cross slots: one connection per partition.
    const isShared = context.redis.topology !== "cluster";
    this.#partitions = positions.map((position, partition) => {
      if (this.#readers.length === 0 || !isShared)
        this.#readers.push(new Reader(context, `tail/${topic.name}`, limits));
      return new TailPartition(
        this,
        this.#readers.at(-1)!,
        context.keys.topic(topic.name, partition),
        topic,
        partition,
        position,
      );
    });
    for (const partition of this.#partitions) partition.begin();
    for (const reader of this.#readers) reader.start();
  }

  hasRoom(): boolean {
    return this.#ahead.length < AHEAD_MAX && this.#aheadBytes < AHEAD_BYTES_MAX;
  }

  push(deliveries: readonly Delivery<unknown>[]): void {
    for (const delivery of deliveries) {
      this.#ahead.push(delivery);
      this.#aheadBytes += delivery.raw.length;
    }
    this.#arrived?.();
  }

  async next(max: number, waitMs: number, signal: AbortSignal): Promise<readonly Tailed[]> {
    const deadline = performance.now() + waitMs;
    for (;;) {
      const taken = this.#take(max);
      const leftMs = deadline - performance.now();
      if (taken.length > 0 || leftMs <= 0 || signal.aborted) return taken;
      if (this.#ahead.length === 0) await this.#arrival(leftMs, signal);
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#readers.map((reader) => reader.stop()));
  }

  #take(max: number): Tailed[] {
    const wasFull = !this.hasRoom();
    const now = this.#context.clock.now();
    const taken: Tailed[] = [];
    let looked = 0;
    let bytes = 0;
    for (const delivery of this.#ahead) {
      if (taken.length >= max || bytes + delivery.raw.length > Math.max(TAKEN_BYTES_MAX, delivery.raw.length)) break;
      looked += 1;
      bytes += delivery.raw.length;
      this.#passed[delivery.partition] = delivery.entry;
      // What is for one group alone (redriven) is not for those who read along.
      if (!isSelected(delivery, { group: "", tags: undefined }, now)) continue;
      taken.push({ message: delivery, cursor: formatCursor(this.#topic, this.#passed) });
    }
    this.#ahead = this.#ahead.slice(looked);
    this.#aheadBytes -= bytes;
    if (wasFull && this.hasRoom()) for (const partition of this.#partitions) partition.wake();
    return taken;
  }

  #arrival(withinMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        this.#arrived = undefined;
        resolve();
      };
      const timer = setTimeout(done, withinMs);
      signal.addEventListener("abort", done);
      this.#arrived = done;
    });
  }
}

class TailPartition implements ReadTarget {
  readonly #tail: RunningTail;
  readonly #reader: Reader;
  readonly #topic: Topic<unknown>;
  readonly #partition: number;
  readonly stream: string;
  position: string;

  constructor(
    tail: RunningTail,
    reader: Reader,
    stream: string,
    topic: Topic<unknown>,
    partition: number,
    position: string,
  ) {
    this.#tail = tail;
    this.#reader = reader;
    this.stream = stream;
    this.#topic = topic;
    this.#partition = partition;
    this.position = position;
  }

  begin(): void {
    this.#reader.add(this);
  }

  wake(): void {
    this.#reader.wake(this);
  }

  hasRoom(): boolean {
    return this.#tail.hasRoom();
  }

  accept(entries: readonly StreamEntry[]): void {
    this.position = entries[entries.length - 1]![0];
    this.#tail.push(entries.map((entry) => new Delivery(this.#topic, this.#partition, entry)));
  }

  run(): void {
    // They are taken, not handed out.
  }
}

function formatCursor(topic: string, positions: readonly string[]): string {
  const texts = positions.map((position) => {
    if (position === NOTHING) return "";
    const [ms = "0", count = "0"] = position.split("-");
    return `${Number(ms).toString(36)}-${BigInt(count).toString(36)}`;
  });
  return [topic, ...texts].join("~");
}

function parseCursor(cursor: string, topic: string, partitions: number): string[] {
  const [name, ...texts] = cursor.split("~");
  const positions = texts.map((text) => {
    const [, ms, count] = CURSOR_POSITION.exec(text) ?? [];
    return text === "" ? NOTHING : ms === undefined ? undefined : `${Number.parseInt(ms, 36)}-${bigintOf(count!)}`;
  });
  if (name !== topic || positions.length !== partitions || positions.includes(undefined)) {
    throw new AppError("INVALID", `after is not a cursor of topic ${topic}`, {
      issues: [{ path: "after", message: `is not a cursor of topic ${topic}` }],
    });
  }
  return positions as string[];
}

/** Counts of an entry id have 64 bits: a place before a time has the largest. */
function bigintOf(text: string): bigint {
  let value = 0n;
  for (const digit of text) value = value * 36n + BigInt(Number.parseInt(digit, 36));
  return value > 2n ** 64n - 1n ? 2n ** 64n - 1n : value;
}
