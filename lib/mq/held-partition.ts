/**
 * One partition while this member of an ordered group holds its lease: it turns stream entries into deliveries for the work,
 * counts them, and notices what was trimmed before it was read.
 */

import { whenAborted } from "../service.ts";
import { type Attempts, parseAttempts } from "./attempts.ts";
import { BatchWork } from "./batch-work.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import type { InFlight } from "./in-flight.ts";
import { KeyWork } from "./key-work.ts";
import { type Grant, type LeaseSite, PartitionLease } from "./lease.ts";
import { Delivery, type StreamEntry } from "./message.ts";
import type { ReadTarget } from "./reader.ts";
import { type AsideStart, findAside, SideQueue } from "./side-queue.ts";
import { lostBehind, streamFacts } from "./stream.ts";
import type { Topic } from "./topic.ts";
import { type GroupCounters, type Work, WorkSite } from "./work.ts";

/** What a predecessor left unfinished. */
export interface Legacy<D> {
  /** The entries that it left open, as far as they still exist. */
  readonly open: readonly Delivery<D>[];
  /** Entries that were trimmed before they were finished. */
  readonly trimmed: readonly string[];
  readonly attempts: ReadonlyMap<string, Attempts>;
  readonly aside: AsideStart;
}

export interface HeldPartitionParts<D> {
  readonly site: LeaseSite;
  readonly topic: Topic<D>;
  readonly declaration: Declaration<D>;
  readonly grant: Grant;
  readonly legacy: Legacy<D>;
  readonly inFlight: InFlight;
  readonly counters: GroupCounters;
  readonly wake: (held: HeldPartition<D>) => void;
  readonly onChanged: (held: HeldPartition<D>) => void;
  readonly onLost: (held: HeldPartition<D>) => void;
}

export class HeldPartition<D> implements ReadTarget {
  readonly partition: number;
  readonly stream: string;
  readonly lease: PartitionLease;
  /** Something is finished or failed that no commit was sent for. */
  isDirty = false;
  readonly #context: QueueContext;
  readonly #topic: Topic<D>;
  readonly #group: string;
  readonly #site: WorkSite<D>;
  readonly #side: SideQueue<D>;
  readonly #work: Work<D>;
  #position: string;
  #ordinal: number;

  constructor(parts: HeldPartitionParts<D>) {
    const { site, topic, declaration, grant, legacy } = parts;
    const { context, partition } = site;
    this.#context = context;
    this.#topic = topic;
    this.#group = declaration.group;
    this.partition = partition;
    this.stream = context.keys.topic(topic.name, partition);
    this.#position = grant.progress.checkpoint;
    this.#ordinal = grant.progress.read;
    this.lease = new PartitionLease(site, grant, () => parts.onLost(this));
    this.#side = new SideQueue({ site, topic, lease: this.lease, start: legacy.aside });
    this.#site = new WorkSite({
      partition,
      declaration,
      lease: this.lease,
      side: this.#side,
      attempts: legacy.attempts,
      counters: parts.counters,
      clock: context.clock,
      member: context.member,
      log: context.log.child({ topic: topic.name, group: declaration.group }),
      wake: () => parts.wake(this),
      onChanged: () => parts.onChanged(this),
    });
    this.#work = declaration.handleBatch
      ? new BatchWork(this.#site, declaration.handleBatch)
      : new KeyWork(this.#site, declaration.handle!, parts.inFlight);
    this.#side.listen(this.#work);
    this.lease.follow({
      progress: () => this.#work.progress(),
      onCommitted: (left) => this.#side.committed(left),
    });
    for (const entry of legacy.trimmed) this.lease.changes.note(entry, undefined);
    if (legacy.open.length > 0) this.#accept([...legacy.open]);
  }

  get position(): string {
    return this.#position;
  }

  hasRoom(): boolean {
    return this.#work.hasRoom();
  }

  accept(entries: readonly StreamEntry[]): void {
    const deliveries = new Array<Delivery<D>>(entries.length);
    for (let i = 0; i < entries.length; i++) {
      const delivery = new Delivery(this.#topic, this.partition, entries[i]!);
      this.#ordinal += 1;
      delivery.ordinal = this.#ordinal;
      deliveries[i] = delivery;
    }
    this.#position = entries[entries.length - 1]![0];
    this.#accept(deliveries);
  }

  #accept(deliveries: Delivery<D>[]): void {
    this.#site.inherit(deliveries);
    this.#work.accept(deliveries);
  }

  /** Takes in hand what stands aside and is due. One script, and that only while something stands aside. */
  takeAside(): void {
    if (this.#side.size === 0 || this.lease.isFailing || !this.#work.mayTake() || !this.#site.mayHandOut()) return;
    void this.#side.take();
    // Services may finish some of it, too, and then the partition is read again.
    if (this.#side.isFull) void this.#side.recount().then(() => this.#site.wake());
  }

  run(): void {
    this.#work.run();
  }

  /** Resolves when no handler has anything of it in hand. */
  idle(): Promise<void> {
    return this.#work.idle();
  }

  /** Finishes what is in hand and frees the partition. When `signal` aborts first, the rest is left to the lease's end. */
  async handOver(signal: AbortSignal): Promise<void> {
    this.#site.drain();
    const aborted = whenAborted(signal);
    let isIdle = false;
    const idle = this.#work.idle().then(() => this.#side.giveBack());
    await Promise.race([aborted, idle.then(() => (isIdle = true))]);
    if (isIdle) await this.lease.release(signal);
    else {
      await this.lease.commit();
      this.lease.abandon();
    }
  }

  /** Counts the entries that were trimmed before they were read, if any, and what stands aside. One command, or four. */
  async audit(): Promise<void> {
    await this.#side.recount();
    const { redis, metrics, log } = this.#context;
    const before = this.#ordinal;
    const stream = await streamFacts(redis.commands, this.stream);
    if (!stream || this.#ordinal !== before) return;
    const lost = lostBehind(stream, this.#position, this.#ordinal);
    if (lost > 0) {
      metrics.lostByTrim.inc({ topic: this.#topic.name, group: this.#group }, lost);
      log.error(
        { topic: this.#topic.name, group: this.#group, partition: this.partition, lost },
        "entries were trimmed unread",
      );
      this.#ordinal += lost;
    }
  }
}

/** Reads what a predecessor left unfinished; of the entries that it left open, those that were trimmed are counted. */
export async function findLegacy<D>(site: LeaseSite, topic: Topic<D>, open: readonly string[]): Promise<Legacy<D>> {
  const { context, topic: name, declaration, partition } = site;
  const { commands } = context.redis;
  const stream = context.keys.topic(name, partition);
  const [found, noted, aside] = await Promise.all([
    Promise.all(open.map((entry) => commands.xrange(stream, entry, entry))),
    commands.hgetall(context.keys.attempts(name, partition, declaration.group)),
    findAside(site),
  ]);
  const deliveries = found.flatMap(([entry]) => (entry ? [new Delivery(topic, partition, entry)] : []));
  const trimmed = open.filter((_, i) => found[i]!.length === 0);
  if (trimmed.length > 0) {
    context.metrics.lostByTrim.inc({ topic: name, group: declaration.group }, trimmed.length);
  }
  const attempts = new Map(Object.entries(noted).map(([entry, text]) => [entry, parseAttempts(text)]));
  return { open: deliveries, trimmed, attempts, aside };
}
