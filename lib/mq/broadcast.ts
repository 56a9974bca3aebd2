/**
 * A reader of a topic for itself: every instance of a broadcast group sees every message, from a place that it keeps in memory.
 * Messages of a partition come one after the other, in its order, partitions side by side.
 *
 * Nothing is written to Redis: there is no lease, no retry and no dead letter (a handler that throws is logged, and its message
 * counts as delivered and not as acked), trimming does not wait, and a new start begins at its start point, which is the end
 * unless told otherwise. What was trimmed before it was read is counted as lost.
 */

import { AppError } from "../errors.ts";
import { toAppError } from "../redis/index.ts";
import { createService, type Service, whenAborted } from "../service.ts";
import type { Declaration, DeliveryContext, QueueContext } from "./consumer.ts";
import { textOf } from "./dead-letter.ts";
import { placeOf } from "./group.ts";
import { Delivery, InvalidMessage, type StreamEntry } from "./message.ts";
import { Reader, type ReadTarget } from "./reader.ts";
import { isExpired, isSelected } from "./selection.ts";
import { lostBehind, streamFacts } from "./stream.ts";
import type { Topic } from "./topic.ts";
import type { GroupCounters } from "./work.ts";

/** How late a loss may be noticed. One small command per partition. */
const AUDIT_MS = 10_000;

export function createBroadcastConsumer<D>(
  context: QueueContext,
  topic: Topic<D>,
  declaration: Declaration<D>,
  onStopped: () => void,
): Service {
  const consumer = new BroadcastConsumer(context, topic, declaration);
  return createService(
    `${topic.name}/${declaration.group}`,
    () => consumer.start(),
    (signal) => consumer.stop(signal).finally(onStopped),
  );
}

class BroadcastConsumer<D> {
  readonly #context: QueueContext;
  readonly #topic: Topic<D>;
  readonly #declaration: Declaration<D>;
  readonly #stopping = new AbortController();
  readonly #readers: Reader[] = [];
  #partitions: readonly BroadcastPartition<D>[] = [];
  #auditing: Promise<void> = Promise.resolve();

  constructor(context: QueueContext, topic: Topic<D>, declaration: Declaration<D>) {
    this.#context = context;
    this.#topic = topic;
    this.#declaration = declaration;
  }

  async start(): Promise<void> {
    const { context, topic, declaration } = {
      context: this.#context,
      topic: this.#topic,
      declaration: this.#declaration,
    };
    const { delivered, acked, retried, expired } = context.metrics;
    const labels = [topic.name, declaration.group] as const;
    const counters: GroupCounters = {
      delivered: delivered.labels(...labels),
      acked: acked.labels(...labels),
      retried: retried.labels(...labels),
      expired: expired.labels(...labels),
    };
    const numbers = Array.from({ length: context.keys.partitions }, (_, partition) => partition);
    try {
      this.#partitions = await Promise.all(
        numbers.map(async (partition) => {
          const place = await this.#begin(partition);
          return new BroadcastPartition(context, topic, declaration, { partition, ...place, counters });
        }),
      );
    } catch (error) {
      throw toAppError(error);
    }
    // In a Cluster a read must not cross slots: one connection per partition.
    const isShared = context.redis.topology !== "cluster";
    for (const partition of this.#partitions) {
      let reader = this.#readers[0];
      if (!reader || !isShared) {
        reader = new Reader(context, `${topic.name}/${declaration.group}`, declaration);
        this.#readers.push(reader);
        reader.start();
      }
      partition.begin(reader);
    }
    this.#auditing = this.#audit();
  }

  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    const readersStopped = Promise.all(this.#readers.map((reader) => reader.stop()));
    await Promise.race([whenAborted(signal), Promise.all(this.#partitions.map((partition) => partition.drain()))]);
    for (const partition of this.#partitions) partition.abandon();
    await Promise.all([readersStopped, this.#auditing]);
  }

  /** The last entry that is not to be read, and how many were ever added up to it. */
  async #begin(partition: number): Promise<{ position: string; ordinal: number }> {
    const { keys, redis } = this.#context;
    const { name } = this.#topic;
    const { start, read } = await placeOf(this.#context, name, partition, this.#declaration.start);
    if (start !== "first" && start !== "latest") return { position: start, ordinal: read };
    const facts = await streamFacts(redis.commands, keys.topic(name, partition));
    if (!facts) return { position: "0-0", ordinal: 0 };
    if (start === "latest") return { position: facts.last, ordinal: facts.added };
    return { position: "0-0", ordinal: facts.added - facts.length };
  }

  async #audit(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      await this.#context.clock.sleep(AUDIT_MS, this.#stopping.signal);
      if (this.#stopping.signal.aborted) return;
      await Promise.all(this.#partitions.map((partition) => partition.audit())).catch((error: unknown) => {
        this.#context.log.debug({ topic: this.#topic.name, error }, "partitions could not be audited");
      });
    }
  }
}

interface Beginning {
  readonly partition: number;
  readonly position: string;
  readonly ordinal: number;
  readonly counters: GroupCounters;
}

class BroadcastPartition<D> implements ReadTarget {
  readonly stream: string;
  readonly #context: QueueContext;
  readonly #topic: Topic<D>;
  readonly #declaration: Declaration<D>;
  readonly #partition: number;
  readonly #counters: GroupCounters;
  readonly #handling: DeliveryContext;
  readonly #controller = new AbortController();
  #reader: Reader | undefined;
  #position: string;
  #ordinal: number;
  /** Read ahead, while the handler has what was read before in hand. */
  #ahead: Delivery<D>[] = [];
  #running: Promise<void> | undefined;
  #isDraining = false;

  constructor(context: QueueContext, topic: Topic<D>, declaration: Declaration<D>, beginning: Beginning) {
    this.#context = context;
    this.#topic = topic;
    this.#declaration = declaration;
    this.#partition = beginning.partition;
    this.#counters = beginning.counters;
    this.#position = beginning.position;
    this.#ordinal = beginning.ordinal;
    this.stream = context.keys.topic(topic.name, beginning.partition);
    this.#handling = {
      partition: beginning.partition,
      token: 0,
      signal: this.#controller.signal,
      // Nothing records what an instance has seen, so nothing could be done once.
      commit: () => Promise.reject(new AppError("INVALID", "a broadcast group has no transactions")),
    };
  }

  get position(): string {
    return this.#position;
  }

  begin(reader: Reader): void {
    this.#reader = reader;
    reader.add(this);
  }

  hasRoom(): boolean {
    return this.#ahead.length === 0 && !this.#isDraining;
  }

  accept(entries: readonly StreamEntry[]): void {
    this.#position = entries[entries.length - 1]![0];
    this.#ordinal += entries.length;
    for (const entry of entries) this.#ahead.push(new Delivery(this.#topic, this.#partition, entry));
  }

  run(): void {
    this.#running ??= this.#runAll().finally(() => {
      this.#running = undefined;
    });
  }

  /** Hands nothing more out; resolves when nothing is in hand. */
  async drain(): Promise<void> {
    this.#isDraining = true;
    await this.#running;
  }

  abandon(): void {
    this.#isDraining = true;
    this.#controller.abort(new AppError("OVERLOADED", "the process is stopping"));
  }

  async audit(): Promise<void> {
    const facts = await streamFacts(this.#context.redis.commands, this.stream);
    if (!facts) return;
    const lost = lostBehind(facts, this.#position, this.#ordinal);
    // Fewer than ever were read: the stream was made anew (FLUSHALL).
    if (facts.added < this.#ordinal) this.#ordinal = facts.added;
    if (lost === 0) return;
    this.#ordinal += lost;
    const labels = { topic: this.#topic.name, group: this.#declaration.group };
    this.#context.metrics.lostByTrim.inc(labels, lost);
    this.#context.log.error({ ...labels, partition: this.#partition, lost }, "entries were trimmed unread");
  }

  async #runAll(): Promise<void> {
    while (this.#ahead.length > 0 && !this.#isDraining) {
      const read = this.#ahead;
      this.#ahead = [];
      this.#reader?.wake(this);
      const selected = read.filter((delivery) => this.#isWanted(delivery));
      const size = this.#declaration.handleBatch ? Math.max(1, selected.length) : 1;
      for (let first = 0; first < selected.length && !this.#isDraining; first += size) {
        await this.#hand(selected.slice(first, first + size));
      }
    }
  }

  #isWanted(delivery: Delivery<D>): boolean {
    const now = this.#context.clock.now();
    if (!isSelected(delivery, this.#declaration, now)) {
      if (isExpired(delivery, now)) this.#counters.expired.inc(1);
      return false;
    }
    if (!this.#declaration.validate) return true;
    try {
      void delivery.data;
      return true;
    } catch (error) {
      if (!(error instanceof InvalidMessage)) throw error;
      this.#failed([delivery], error);
      return false;
    }
  }

  async #hand(deliveries: readonly Delivery<D>[]): Promise<void> {
    const { handle, handleBatch } = this.#declaration;
    this.#counters.delivered.inc(deliveries.length);
    try {
      if (handle) await handle(deliveries[0]!, this.#handling);
      else await handleBatch!(deliveries, this.#handling);
      this.#counters.acked.inc(deliveries.length);
    } catch (error) {
      this.#failed(deliveries, error);
    }
  }

  #failed(deliveries: readonly Delivery<D>[], error: unknown): void {
    const { entry, key } = deliveries[0]!;
    this.#context.log.error(
      {
        ...{ topic: this.#topic.name, group: this.#declaration.group, partition: this.#partition, entry, key },
        ...{ count: deliveries.length, reason: textOf(error) },
      },
      "handler failed; a broadcast message does not come again",
    );
  }
}
