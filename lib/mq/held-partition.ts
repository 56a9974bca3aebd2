/**
 * One partition while this member of an ordered group holds its lease: it turns stream entries into deliveries for the work,
 * counts them, and notices what was trimmed before it was read.
 */

import { BatchWork } from "./batch-work.ts";
import type { Declaration, QueueContext } from "./consumer.ts";
import { type InFlight, KeyWork } from "./key-work.ts";
import { type Grant, type LeaseSite, PartitionLease } from "./lease.ts";
import { Delivery, type StreamEntry } from "./message.ts";
import type { OpenEntry } from "./progress.ts";
import type { ReadTarget } from "./reader.ts";
import { lostBehind, streamFacts } from "./stream.ts";
import type { Topic } from "./topic.ts";
import { type GroupCounters, type Work, WorkSite } from "./work.ts";

export interface HeldPartitionParts<D> {
  readonly site: LeaseSite;
  readonly topic: Topic<D>;
  readonly declaration: Declaration<D>;
  readonly grant: Grant;
  /** The entries that the predecessor left open, as far as they still exist. */
  readonly recovered: readonly Delivery<D>[];
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
  readonly #work: Work<D>;
  #position: string;
  #ordinal: number;

  constructor(parts: HeldPartitionParts<D>) {
    const { site, topic, declaration, grant } = parts;
    const { context, partition } = site;
    this.#context = context;
    this.#topic = topic;
    this.#group = declaration.group;
    this.partition = partition;
    this.stream = context.keys.topic(topic.name, partition);
    this.#position = grant.progress.checkpoint;
    this.#ordinal = grant.progress.read;
    this.lease = new PartitionLease(site, grant, () => parts.onLost(this));
    this.#site = new WorkSite({
      partition,
      declaration,
      lease: this.lease,
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
    this.lease.follow(() => this.#work.progress());
    if (parts.recovered.length > 0) this.#work.accept([...parts.recovered]);
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
    this.#work.accept(deliveries);
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
    const aborted = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener("abort", () => resolve(), { once: true });
    });
    let isIdle = false;
    await Promise.race([aborted, this.#work.idle().then(() => (isIdle = true))]);
    if (isIdle) await this.lease.release(signal);
    else {
      await this.lease.commit();
      this.lease.abandon();
    }
  }

  /** Counts the entries that were trimmed before they were read, if any. One command. */
  async audit(): Promise<void> {
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

/** Reads the entries that a predecessor left open; those that were trimmed are counted and left out. */
export async function recoverOpen<D>(
  { context, topic: name, declaration, partition }: LeaseSite,
  topic: Topic<D>,
  open: readonly OpenEntry[],
): Promise<Delivery<D>[]> {
  const stream = context.keys.topic(name, partition);
  const found = await Promise.all(open.map(({ entry }) => context.redis.commands.xrange(stream, entry, entry)));
  const recovered: Delivery<D>[] = [];
  for (const [i, entries] of found.entries()) {
    const entry = entries[0];
    if (!entry) continue;
    const delivery = new Delivery(topic, partition, entry);
    delivery.attempt = open[i]!.attempts + 1;
    delivery.firstFailureMs = open[i]!.firstFailureMs;
    recovered.push(delivery);
  }
  const lost = open.length - recovered.length;
  if (lost > 0) context.metrics.lostByTrim.inc({ topic: name, group: declaration.group }, lost);
  return recovered;
}
