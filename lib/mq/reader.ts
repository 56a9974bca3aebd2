/**
 * Reads many partitions over one blocking connection: one XREAD … BLOCK for all that have room. A partition whose handler is
 * behind is left out of the read, and the others go on; when it has room again while the read is blocked, the read is ended
 * by CLIENT UNBLOCK and sent anew with it.
 *
 * The next read is sent before the entries of the last are handled, so Redis works while handlers do. Reading in vain (a
 * second, unblocked XREAD for the partition that has room again) was considered: it costs a large reply on the connection of
 * the request path, where UNBLOCK costs two small commands, and that only when all other partitions are idle.
 */

import { backoffMs, systemClock } from "../clock.ts";
import { outcomeOf, type RedisClient } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";
import type { StreamEntry } from "./message.ts";
import { Quarantine } from "./quarantine.ts";

/**
 * A blocked read is given this long to return by itself, which under load it does; and it is ended again this often until it
 * has returned, for UNBLOCK may overtake the read that it is to end.
 */
const UNBLOCK_AFTER_MS = 1;
const FAILURE_BACKOFF = { firstMs: 50, maxMs: 1_000, jitter: 0.2 };
/** Fewer entries per partition and read than this cost Redis more per entry (design.md §11). */
const COUNT_MIN = 32;
/** One reply stays below about this size, by the mean size of the entries read before; default of `replyBytesMax`. */
const REPLY_BYTES_MAX = 8 * 1024 * 1024;
/** Before any entry was read each counts as the largest there may be: the first reads of a backlog of such must not be larger. */
const ENTRY_BYTES_FIRST = 256 * 1024;

/** One partition of one group, as the reader sees it. */
export interface ReadTarget {
  readonly stream: string;
  /** The last entry read. */
  readonly position: string;
  /** Whether it takes entries now. It may be given one read more than it has room for. */
  hasRoom(): boolean;
  /** Takes entries in hand. Must not call handlers: the next read is sent first. */
  accept(entries: readonly StreamEntry[]): void;
  /** Hands out what it accepted. */
  run(): void;
}

export class Reader {
  readonly #context: QueueContext;
  readonly #connection: RedisClient;
  readonly #batchMax: number;
  readonly #inFlightMax: number;
  readonly #lingerMs: number;
  readonly #replyBytesMax: number;
  /** Ends a linger; undefined while there is none. */
  #lingering: AbortController | undefined;
  /** The last read came back full: there is more. */
  #isBehind = false;
  readonly #targets = new Map<string, ReadTarget>();
  readonly #quarantine: Quarantine;
  #reading = new Set<ReadTarget>();
  #readNumber = 0;
  /** The read that a target waits behind. */
  #unwanted = -1;
  #clientId: number | undefined;
  #isUnblocking = false;
  #awake: (() => void) | undefined;
  #isStopped = false;
  readonly #stopped = Promise.withResolvers<undefined>();
  #loop: Promise<void> | undefined;
  /** Streams that the last read found entries in: among them the room is divided. Before the first it may be all of them. */
  #busyStreams: number | undefined;
  #entryBytes = ENTRY_BYTES_FIRST;
  /** COUNT of the read under way. */
  #asked = 0;

  constructor(
    context: QueueContext,
    name: string,
    limits: { batchMax: number; inFlightMax: number; lingerMs: number; replyBytesMax?: number },
  ) {
    this.#context = context;
    this.#quarantine = new Quarantine(context);
    this.#batchMax = limits.batchMax;
    this.#inFlightMax = limits.inFlightMax;
    this.#lingerMs = limits.lingerMs;
    this.#replyBytesMax = limits.replyBytesMax ?? REPLY_BYTES_MAX;
    this.#connection = context.redis.blocking(name);
    this.#connection.on("close", () => {
      this.#clientId = undefined;
    });
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  add(target: ReadTarget): void {
    this.#targets.set(target.stream, target);
    this.wake(target);
  }

  /** Entries of it that are on their way are dropped. */
  remove(target: ReadTarget): void {
    if (this.#targets.get(target.stream) === target) this.#targets.delete(target.stream);
  }

  /** `target` may have room that the present read does not know of. */
  wake(target: ReadTarget): void {
    if (this.#reading.has(target) || this.#isStopped || this.#lingering || !target.hasRoom()) return;
    if (this.#awake) this.#awake();
    else {
      this.#unwanted = this.#readNumber;
      void this.#unblock();
    }
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#stopped.resolve(undefined);
    this.#targets.clear();
    // A read that waits for a connection is never answered once it was told to wait no longer (ioredis): nor waited for.
    const isConnected = this.#connection.status === "ready";
    this.#connection.disconnect();
    this.#awake?.();
    this.#lingering?.abort();
    if (isConnected) await this.#loop;
  }

  async #run(): Promise<void> {
    let failures = 0;
    let reading: Promise<unknown> = Promise.resolve(null);
    while (!this.#isStopped) {
      try {
        const touched = this.#accept(await reading);
        failures = 0;
        if (this.#lingerMs > 0 && touched.length > 0 && !this.#isBehind) {
          for (const target of touched) target.run();
          await this.#linger();
          reading = this.#readAhead();
          continue;
        }
        reading = this.#readAhead();
        for (const target of touched) target.run();
      } catch (error) {
        if (this.#isStopped) return;
        failures += 1;
        await this.#recover(error, failures);
        reading = this.#readAhead();
      }
    }
  }

  /** Lets entries gather, so that the next read finds many: no read is under way meanwhile, and none need be woken. */
  async #linger(): Promise<void> {
    this.#lingering = new AbortController();
    await systemClock.sleep(this.#lingerMs, this.#lingering.signal);
    this.#lingering = undefined;
  }

  /** Begins a read that is awaited in the next turn. There may be none: a handler may throw, or the reader be stopped. */
  #readAhead(): Promise<unknown> {
    const reading = this.#read();
    reading.catch(() => undefined);
    return reading;
  }

  /** Sends one read of all targets with room, or waits until there is one. */
  async #read(): Promise<unknown> {
    // Stopped while it recovered: nobody would await the refusal of a closed connection.
    if (this.#isStopped) return null;
    this.#readNumber += 1;
    // First, for a read that could not be ended would leave out whoever comes meanwhile. A connection that is closed while it is
    // down leaves the command without an answer.
    this.#clientId ??= await Promise.race([this.#connection.client("ID"), this.#stopped.promise]);
    if (this.#isStopped) return null;
    const ready = [...this.#targets.values()].filter(
      (target) => target.hasRoom() && !this.#quarantine.has(target.stream),
    );
    if (ready.length === 0) {
      this.#reading = new Set();
      const waiting = new AbortController();
      this.#awake = () => waiting.abort();
      await this.#context.clock.sleep(this.#quarantine.blockMs, waiting.signal);
      this.#awake = undefined;
      return null;
    }
    this.#reading = new Set(ready);
    const count = this.#count();
    this.#asked = count;
    const streams = ready.map((target) => target.stream);
    const positions = ready.map((target) => target.position);
    return this.#connection.xread(
      "COUNT",
      count,
      "BLOCK",
      this.#quarantine.blockMs,
      "STREAMS",
      ...streams,
      ...positions,
    );
  }

  #count(): number {
    const busyStreams = this.#busyStreams ?? this.#targets.size;
    const byRoom = Math.max(COUNT_MIN, Math.floor(this.#inFlightMax / busyStreams));
    const byBytes = Math.max(1, Math.floor(this.#replyBytesMax / busyStreams / this.#entryBytes));
    return Math.min(this.#batchMax, this.#inFlightMax, byRoom, byBytes);
  }

  #accept(reply: unknown): readonly ReadTarget[] {
    const reading = this.#reading;
    this.#reading = new Set();
    if (!Array.isArray(reply)) return [];
    const touched: ReadTarget[] = [];
    this.#isBehind = false;
    for (const [stream, entries] of reply as [string, StreamEntry[]][]) {
      const target = this.#targets.get(stream);
      if (!target || !reading.has(target) || entries.length === 0) continue;
      this.#entryBytes += ((entries[0]![1][1]?.length ?? 0) + 256 - this.#entryBytes) / 8;
      target.accept(entries);
      if (entries.length >= this.#asked) this.#isBehind = true;
      touched.push(target);
    }
    this.#busyStreams = Math.max(1, touched.length);
    return touched;
  }

  /** Ends the unwanted read, but no later one. */
  async #unblock(): Promise<void> {
    const { redis, clock, log } = this.#context;
    // On a Cluster a connection reads one partition: there are no others to end its read for.
    if (this.#isUnblocking || redis.topology === "cluster") return;
    this.#isUnblocking = true;
    try {
      while (this.#unwanted === this.#readNumber && !this.#isStopped) {
        await clock.sleep(UNBLOCK_AFTER_MS);
        if (this.#unwanted !== this.#readNumber || this.#clientId === undefined) break;
        await redis.commands.client("UNBLOCK", this.#clientId);
      }
    } catch (error) {
      // The read returns by itself within seconds.
      log.debug({ error }, "a blocked read could not be ended");
    } finally {
      this.#isUnblocking = false;
    }
  }

  async #recover(error: unknown, failures: number): Promise<void> {
    const { log, clock, metrics } = this.#context;
    metrics.redisErrors.inc({ class: outcomeOf(error) });
    log[failures === 1 ? "warn" : "debug"]({ error, failures }, "reading partitions failed, it will be repeated");
    if (outcomeOf(error) === "bug") await this.#quarantine.inspect([...this.#targets.keys()]);
    await clock.sleep(backoffMs(failures, FAILURE_BACKOFF));
  }
}
