/**
 * The keys of one held partition that stand aside, as its holder sees them. A key comes aside when its first message cannot go on
 * and its successors would fill the window or hold back trimming: all its messages are copied to the side queue, by the
 * commit that moves the checkpoint past them.
 *
 *   window ──setAside──► away ──take, when due──► in hand ──nothing left──► window
 *              (ready or parked) ◄──── back ─────────┘
 *
 * What comes for a key that is away goes aside too; for one that is in hand it waits in the window (key-work.ts). A record in Redis is
 * the truth; this set may name a key that is not there any more, and then finds out with its next message.
 */

import { defineScript } from "../redis/index.ts";
import lostLua from "../redis/lua/mq-lost.lua" with { type: "text" };
import sideLua from "../redis/lua/mq-side.lua" with { type: "text" };
import readLua from "../redis/lua/mq-side-read.lua" with { type: "text" };
import takeLua from "../redis/lua/mq-side-take.lua" with { type: "text" };
import { inHandAlone, LOSSES_MAX, parseAttempts, resume } from "./attempts.ts";
import type { AsideTurn } from "./changes.ts";
import type { DeadLetter } from "./dead-letter.ts";
import type { LeaseSite, PartitionLease } from "./lease.ts";
import { Delivery } from "./message.ts";
import { sideKeys } from "./side.ts";
import type { Topic } from "./topic.ts";

/** Per partition and group. Beyond, reading of the partition stops until keys go on: 10 000 parked keys are no accident of one message. */
export const SIDE_KEYS_MAX = 10_000;
export const SIDE_MESSAGES_MAX = 100_000;
export const SIDE_BYTES_MAX = 64 * 1024 * 1024;
/** Keys in hand at a time, and taken per call. */
const HANDS_MAX = 100;
/** Messages that come with a key, and per further read of it: a key with thousands aside is a read per hundred. */
const FIRST_MAX = 10;
const READ_MAX = 100;
/** Of one reply, beyond its first message: what all hands together hold stays below that of a full in-flight window. */
const READ_BYTES_MAX = 256 * 1024;

type AsideMessage = [entry: string, header: string, data: string];
type TakenKey = [key: string, failed: number, losses: number, first: string, history: string, messages: AsideMessage[]];

const takeScript = defineScript({
  name: "mqSideTake",
  lua: [lostLua, sideLua, takeLua],
  keys: ["lease", "aside", "asideDue", "side", "sideOrder"],
  args: ["member", "token", "leaseMs", "limit", "count", "bytesMax"],
  hasRest: true,
  decode: (reply) => reply as [isHolder: 0] | [isHolder: 1, keys: TakenKey[], isMore: 0 | 1],
});

const readScript = defineScript({
  name: "mqSideRead",
  lua: [sideLua, readLua],
  keys: ["side", "sideOrder"],
  args: ["key", "after", "count", "bytesMax"],
  decode: (reply) => reply as AsideMessage[],
});

/** A key whose messages are handed out from aside. */
interface Hand<D> {
  /** The first may be with a handler. */
  readonly queue: Delivery<D>[];
  losses: number;
  /** Messages of it that are finished, and no commit has carried that yet. */
  finishing: number;
  /** The last entry read. */
  last: string;
  isReading: boolean;
  /** Nothing was left behind it at the last look. */
  isAtEnd: boolean;
}

interface Standing {
  keys: number;
  messages: number;
  bytes: number;
}

/** What a holder finds aside when it begins. */
export interface AsideStart {
  readonly keys: readonly string[];
  readonly messages: number;
  readonly bytes: number;
}

export interface SideQueueParts<D> {
  readonly site: LeaseSite;
  readonly topic: Topic<D>;
  readonly lease: PartitionLease;
  readonly start: AsideStart;
}

/** What the work does when a key changes sides. */
export interface SideListener {
  /** A key in hand has a message to hand out. `losses`: how many vanished with its first message in hand. */
  readonly onReady: (key: string, losses: number) => void;
  /** Nothing of the key stands aside any more. */
  readonly onLeft: (key: string) => void;
}

export class SideQueue<D> {
  readonly #parts: SideQueueParts<D>;
  readonly #keys: Set<string>;
  readonly #hands = new Map<string, Hand<D>>();
  /** Keys that go back, and no commit has carried that yet. */
  readonly #backs = new Set<string>();
  /** By key, messages that no commit has carried aside yet. */
  readonly #puts = new Map<string, number>();
  #listener: SideListener = { onReady: () => undefined, onLeft: () => undefined };
  /** As of the last count and what was done since; services take away from it, too. */
  #standing: Standing;
  #wasFull = false;
  /** Messages that commits have carried aside. */
  #carriedCount = 0;
  #taking: Promise<void> | undefined;
  #failures = 0;

  constructor(parts: SideQueueParts<D>) {
    this.#parts = parts;
    this.#keys = new Set(parts.start.keys);
    this.#standing = { ...parts.start, keys: parts.start.keys.length };
  }

  listen(listener: SideListener): void {
    this.#listener = listener;
  }

  /** Keys that stand aside: 0 nearly always, and then nothing here is asked for anything else. */
  get size(): number {
    return this.#keys.size;
  }

  get isFull(): boolean {
    const { keys, messages, bytes } = this.#standing;
    return keys >= SIDE_KEYS_MAX || messages >= SIDE_MESSAGES_MAX || bytes >= SIDE_BYTES_MAX;
  }

  has(key: string): boolean {
    return this.#keys.has(key);
  }

  isInHand(key: string): boolean {
    return this.#hands.has(key);
  }

  /** Of a key in hand, the messages that are to be handed out next. */
  queueOf(key: string): readonly Delivery<D>[] {
    return this.#hands.get(key)?.queue ?? [];
  }

  /** Whether the delivery came from aside. */
  holds(key: string, delivery: Delivery<D>): boolean {
    return this.#keys.size > 0 && this.queueOf(key).includes(delivery);
  }

  get keysInHand(): readonly string[] {
    return [...this.#hands.keys()];
  }

  /** The messages go aside, in their order, behind what their key has there; with `turn` they are the first. */
  put(key: string, deliveries: readonly Delivery<D>[], turn?: AsideTurn): void {
    if (!this.#keys.has(key)) this.#standing.keys += 1;
    this.#keys.add(key);
    for (const [i, delivery] of deliveries.entries()) {
      this.#standing.messages += 1;
      this.#standing.bytes += bytesOf(delivery);
      this.#puts.set(key, (this.#puts.get(key) ?? 0) + 1);
      this.#parts.lease.changes.put(key, delivery, i === 0 ? turn : undefined, () => this.#carried(key));
    }
    this.#tellWhenFull();
  }

  /** The first message of a key in hand is finished. */
  done(key: string): void {
    const { hand, delivery } = this.#shift(key);
    this.#parts.lease.changes.done(key, delivery.entry, () => (hand.finishing -= 1));
  }

  /** The first message of a key in hand is finished, by the commit that did its effect. */
  ended(key: string): void {
    const { hand } = this.#shift(key);
    hand.finishing -= 1;
  }

  /** The first message of a key in hand is finished, by its move to dead letters. */
  drop(key: string, letter: DeadLetter): void {
    const { hand } = this.#shift(key);
    this.#parts.lease.changes.drop(key, letter, () => (hand.finishing -= 1));
  }

  /** A key in hand goes away again. */
  back(key: string, turn: AsideTurn): void {
    this.#hands.delete(key);
    this.#backs.add(key);
    this.#parts.lease.changes.back(key, turn, () => this.#backs.delete(key));
  }

  /** Whether so many members were lost with a key in hand that its first message is to be handed out alone. */
  isSuspect(key: string): boolean {
    return (this.#hands.get(key)?.losses ?? 0) >= LOSSES_MAX;
  }

  /** Of a suspect: makes it known that it is alone in hand, for only then can the loss of this member be its fault. Never rejects. */
  async noteAlone(key: string): Promise<void> {
    const { lease } = this.#parts;
    const losses = this.#hands.get(key)?.losses;
    if (losses !== undefined) lease.changes.alone(key, inHandAlone(losses));
    await lease.flush();
  }

  /** Gives back all that is in hand and not with a handler, as it was found: a hand-over costs nothing. */
  async giveBack(): Promise<void> {
    await this.#taking;
    for (const [key, { queue, losses }] of [...this.#hands]) {
      const [first] = queue;
      const failed = first ? first.attempt - 1 : 0;
      const { firstFailureMs, history } = first ?? { firstFailureMs: 0, history: [] };
      this.back(key, { state: "ready", waitMs: 0, failed, losses, firstFailureMs, history });
    }
  }

  /** Takes what is due in hand. Never rejects; what fails is tried again with the next look. */
  take(): Promise<void> {
    this.#taking ??= this.#takeAll().finally(() => {
      this.#taking = undefined;
    });
    return this.#taking;
  }

  /** A commit has succeeded; `left`: keys of which nothing stands aside any more. */
  committed(left: readonly string[]): void {
    for (const key of left) this.#leave(key);
    this.#readEmpty();
  }

  /** Counts anew what stands aside: services may have finished some of it. Never rejects. */
  async recount(): Promise<void> {
    if (this.#keys.size === 0) return;
    try {
      this.#standing = await countAside(this.#parts.site);
      this.#tellWhenFull();
    } catch (error) {
      this.#failed(error);
    }
  }

  async #takeAll(): Promise<void> {
    const { site, lease } = this.#parts;
    const { context, topic, declaration, partition } = site;
    const { keys, redis, member } = context;
    this.#readEmpty();
    try {
      for (let isMore = true; isMore && this.#hands.size < HANDS_MAX && lease.isHeld(); ) {
        const reply = await takeScript(redis.commands, {
          ...sideKeys(keys, topic, partition, declaration.group),
          lease: keys.lease(topic, partition, declaration.group),
          member,
          token: lease.token,
          leaseMs: declaration.leaseMs,
          limit: HANDS_MAX - this.#hands.size,
          count: FIRST_MAX,
          bytesMax: READ_BYTES_MAX,
          restArgs: [...this.#hands.keys(), ...this.#backs],
        });
        if (reply[0] === 0) return;
        for (const taken of reply[1]) this.#accept(taken);
        isMore = reply[2] === 1 && reply[1].length > 0;
      }
      this.#failures = 0;
    } catch (error) {
      this.#failed(error);
    }
  }

  #accept([key, failed, losses, first, history, messages]: TakenKey): void {
    const queue = messages.map((message) => this.#deliveryOf(message));
    if (queue[0]) resume(queue[0], parseAttempts(`${failed} ${losses} ${first} ${history}`));
    const last = queue.at(-1)?.entry ?? "0-0";
    this.#keys.add(key);
    this.#hands.set(key, { queue, losses, finishing: 0, last, isReading: false, isAtEnd: false });
    if (queue.length > 0) this.#listener.onReady(key, losses);
  }

  #leave(key: string): void {
    this.#hands.delete(key);
    // More of it may be on its way aside.
    if (this.#puts.has(key) || !this.#keys.delete(key)) return;
    this.#standing.keys -= 1;
    this.#listener.onLeft(key);
  }

  /** Looks again where a key in hand has run out of messages, and all that were finished are gone: what is there came meanwhile. */
  #readEmpty(): void {
    for (const [key, hand] of this.#hands) {
      if (hand.queue.length === 0 && hand.finishing === 0) void this.#read(key, hand, "");
    }
  }

  async #read(key: string, hand: Hand<D>, after: string): Promise<void> {
    if (hand.isReading) return;
    hand.isReading = true;
    const carried = this.#carriedCount;
    const { context, topic, declaration, partition } = this.#parts.site;
    const { side, sideOrder } = sideKeys(context.keys, topic, partition, declaration.group);
    try {
      const input = { side, sideOrder, key, after, count: READ_MAX, bytesMax: READ_BYTES_MAX };
      const messages = await readScript(context.redis.commands, input);
      if (this.#hands.get(key) !== hand) return;
      hand.isAtEnd = messages.length === 0;
      if (messages.length > 0) this.#append(key, hand, messages);
      else if (after === "" && carried === this.#carriedCount) this.#leave(key);
    } catch (error) {
      this.#failed(error);
    } finally {
      hand.isReading = false;
    }
  }

  #append(key: string, hand: Hand<D>, messages: readonly AsideMessage[]): void {
    const wasEmpty = hand.queue.length === 0;
    hand.queue.push(...messages.map((message) => this.#deliveryOf(message)));
    hand.last = hand.queue.at(-1)!.entry;
    if (wasEmpty) this.#listener.onReady(key, 0);
  }

  #shift(key: string): { hand: Hand<D>; delivery: Delivery<D> } {
    const hand = this.#hands.get(key)!;
    const delivery = hand.queue.shift()!;
    hand.losses = 0;
    hand.finishing += 1;
    this.#standing.messages -= 1;
    this.#standing.bytes -= bytesOf(delivery);
    if (hand.queue.length < FIRST_MAX && !hand.isAtEnd) void this.#read(key, hand, hand.last);
    return { hand, delivery };
  }

  #carried(key: string): void {
    this.#carriedCount += 1;
    const left = this.#puts.get(key)! - 1;
    if (left > 0) this.#puts.set(key, left);
    else this.#puts.delete(key);
    const hand = this.#hands.get(key);
    if (hand) hand.isAtEnd = false;
  }

  #deliveryOf([entry, header, data]: AsideMessage): Delivery<D> {
    return new Delivery(this.#parts.topic, this.#parts.site.partition, [entry, [header, data]]);
  }

  #tellWhenFull(): void {
    if (this.isFull === this.#wasFull) return;
    this.#wasFull = this.isFull;
    const { context, topic, declaration, partition } = this.#parts.site;
    const fields = { topic, group: declaration.group, partition, ...this.#standing };
    if (this.isFull)
      context.log.error(fields, "too much stands aside: the partition is not read until some of it goes on");
    else context.log.info(fields, "the partition is read again");
  }

  #failed(error: unknown): void {
    this.#failures += 1;
    const { context, topic, declaration, partition } = this.#parts.site;
    const level = this.#failures === 1 ? "warn" : "debug";
    const fields = { topic, group: declaration.group, partition, error };
    context.log[level](fields, "keys aside could not be read, it will be repeated");
  }
}

/** What a new holder finds aside. One command, or four. */
export async function findAside(site: LeaseSite): Promise<AsideStart> {
  const { context, topic, declaration, partition } = site;
  const keys = await context.redis.commands.hkeys(context.keys.aside(topic, partition, declaration.group));
  return keys.length === 0 ? { keys, messages: 0, bytes: 0 } : { ...(await countAside(site)), keys };
}

async function countAside({ context, topic, declaration, partition }: LeaseSite): Promise<Standing> {
  const { aside, side } = sideKeys(context.keys, topic, partition, declaration.group);
  const { commands } = context.redis;
  const [keys, messages, bytes] = await Promise.all([
    commands.hlen(aside),
    commands.hlen(side),
    commands.memory("USAGE", side),
  ]);
  return { keys, messages, bytes: bytes ?? 0 };
}

function bytesOf<D>({ fields }: Delivery<D>): number {
  return fields[0]!.length + fields[1]!.length;
}
