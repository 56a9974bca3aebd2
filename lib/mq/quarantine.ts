/**
 * Partitions whose key holds something else than a stream. One such key fails the read of all partitions, so it is found and
 * left out for a while: a broken partition must not hold up the others.
 */

import { BLOCK_MS } from "../redis/index.ts";
import type { QueueContext } from "./consumer.ts";

/** A partition whose key holds something else is looked at again this late. */
const QUARANTINE_MS = 1_000;

export class Quarantine {
  readonly #context: QueueContext;
  readonly #until = new Map<string, number>();

  constructor(context: QueueContext) {
    this.#context = context;
  }

  /** How long a read of the others may block: no longer than until what was left out is to be looked at again. */
  get blockMs(): number {
    return this.#until.size === 0 ? BLOCK_MS : QUARANTINE_MS;
  }

  has(stream: string): boolean {
    const until = this.#until.get(stream);
    if (until === undefined) return false;
    if (performance.now() < until) return true;
    this.#until.delete(stream);
    return false;
  }

  /** Looks at the types of all after a read failed. Never rejects: what cannot be seen now fails the next read again. */
  async inspect(streams: readonly string[]): Promise<void> {
    const { redis, log } = this.#context;
    const types = await Promise.all(streams.map((stream) => redis.commands.type(stream))).catch((error: unknown) => {
      log.debug({ error }, "the types of partitions could not be read");
      return [];
    });
    for (const [i, type] of types.entries()) {
      if (type === "stream" || type === "none") continue;
      this.#until.set(streams[i]!, performance.now() + QUARANTINE_MS);
      log.error({ key: streams[i], type }, "a partition's key does not hold a stream");
    }
  }
}
