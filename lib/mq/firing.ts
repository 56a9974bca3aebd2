/**
 * Firing delayed messages: the one script that turns a PENDING record into a message of its topic, by Redis TIME, whoever asks and
 * however often. Records that are asked for in one tick go together, by partition.
 */

import type { AppError } from "../errors.ts";
import { partitionOfPlacedId } from "../id.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import appendLua from "../redis/lua/mq-append.lua" with { type: "text" };
import delayLua from "../redis/lua/mq-delay.lua" with { type: "text" };
import delayFireLua from "../redis/lua/mq-delay-fire.lua" with { type: "text" };
import { parseCondition } from "./condition.ts";
import type { QueueContext } from "./consumer.ts";
import { type DelayedRecord, type DelayedState, parseDelayed, shelfKeys } from "./delayed-record.ts";

/** Records per script call: some 1 ms of Redis; with the largest data 25 MB that it moves. */
const FIRE_MAX = 100;

export type FireOutcome =
  | { readonly kind: "fired"; readonly entry: string; readonly lateMs: number }
  | { readonly kind: "dropped"; readonly reason: "expired" | "condition" }
  /** Not due. `leftMs` and `dueMs` by Redis TIME. */
  | { readonly kind: "early"; readonly dueMs: number; readonly leftMs: number; readonly version: number }
  | { readonly kind: "ended"; readonly state: DelayedState }
  | { readonly kind: "missing" }
  /** It stays PENDING: its topic or the key of its condition holds what another program put there. */
  | { readonly kind: "failed"; readonly error: string };

type FireReply =
  | ["fired", entry: string, lateMs: number]
  | ["dropped", reason: "expired" | "condition"]
  | ["early", dueMs: string, version: string]
  | ["ended", letter: "F" | "C" | "D"]
  | ["missing"]
  | ["failed", error: string];

const fireScript = defineScript({
  name: "mqDelayFire",
  lua: [appendLua, delayLua, delayFireLua],
  keys: ["records", "due", "ended"],
  args: ["isForced"],
  hasRest: true,
  decode: (reply) => {
    const [nowMs, ...outcomes] = reply as [number, ...FireReply[]];
    return { nowMs, outcomes };
  },
});

const ENDED: Readonly<Record<"F" | "C" | "D", DelayedState>> = { F: "FIRED", C: "CANCELLED", D: "DROPPED" };

interface Asked {
  readonly id: string;
  readonly resolve: (outcome: FireOutcome) => void;
  readonly reject: (error: AppError) => void;
}

export class Firing {
  readonly #context: QueueContext;
  readonly #asked = new Map<number, Asked[]>();

  constructor(context: QueueContext) {
    this.#context = context;
  }

  /** Fires a record if it is due. Throws AppError for Redis errors; the record is then as it was, or fired. */
  fire(id: string): Promise<FireOutcome> {
    const partition = partitionOfPlacedId(id, this.#context.keys.partitions);
    if (partition === undefined) return Promise.resolve({ kind: "missing" });
    return new Promise((resolve, reject) => {
      if (this.#asked.size === 0) setImmediate(() => this.#flush());
      const asked = this.#asked.get(partition) ?? [];
      asked.push({ id, resolve, reject });
      this.#asked.set(partition, asked);
    });
  }

  /** Fires a record though it is not due, and whether its condition holds or not. Throws as fire. */
  async force(id: string): Promise<FireOutcome> {
    const partition = partitionOfPlacedId(id, this.#context.keys.partitions);
    if (partition === undefined) return { kind: "missing" };
    try {
      const [outcome] = await this.#run(partition, [id], true);
      return outcome!;
    } catch (error) {
      throw toAppError(error);
    }
  }

  #flush(): void {
    for (const [partition, asked] of this.#asked) {
      for (let first = 0; first < asked.length; first += FIRE_MAX) {
        void this.#answer(partition, asked.slice(first, first + FIRE_MAX));
      }
    }
    this.#asked.clear();
  }

  async #answer(partition: number, chunk: readonly Asked[]): Promise<void> {
    try {
      const ids = chunk.map(({ id }) => id);
      const outcomes = await this.#run(partition, ids, false);
      for (const [i, { resolve }] of chunk.entries()) resolve(outcomes[i]!);
    } catch (error) {
      for (const { reject } of chunk) reject(toAppError(error));
    }
  }

  /** The script must name the keys of topics and conditions beforehand, so the records are looked at first; neither ever changes. */
  async #run(partition: number, ids: readonly string[], isForced: boolean): Promise<FireOutcome[]> {
    const { keys, redis } = this.#context;
    const { relay: _relay, ...shelf } = shelfKeys(keys, partition);
    const texts = await redis.commands.hmget(shelf.records, ...ids);
    const records = texts.map((text, i) => (text === null ? undefined : parseDelayed(ids[i]!, text)));
    const positions = new Map<string, number>(Object.values(shelf).map((key, i) => [key, i + 1]));
    const positionOf = (key: string) => {
      if (!positions.has(key)) positions.set(key, positions.size + 1);
      return positions.get(key)!;
    };
    const args: (string | number)[] = [];
    const pending = records.filter((record) => record?.state === "PENDING") as DelayedRecord[];
    for (const { id, topic, condition } of pending) {
      const asked = parseCondition(condition);
      args.push(id, positionOf(keys.topic(topic, partition)), asked ? positionOf(asked.key) : 0);
    }
    const named = Object.keys(shelf).length;
    const { nowMs, outcomes } =
      pending.length === 0
        ? { nowMs: 0, outcomes: [] }
        : await fireScript(redis.commands, {
            ...shelf,
            isForced: isForced ? 1 : 0,
            restKeys: [...positions.keys()].slice(named),
            restArgs: args,
          });
    let next = 0;
    return records.map((record) => {
      if (record === undefined) return { kind: "missing" };
      if (record.state !== "PENDING") return { kind: "ended", state: record.state };
      return this.#decode(record, outcomes[next++]!, nowMs);
    });
  }

  #decode({ topic }: DelayedRecord, reply: FireReply, nowMs: number): FireOutcome {
    const { delayed, delayedLateness, published } = this.#context.metrics;
    switch (reply[0]) {
      case "fired":
        delayed.inc({ outcome: "fired" });
        delayedLateness.observe(reply[2] / 1_000);
        published.inc({ topic });
        return { kind: "fired", entry: reply[1], lateMs: reply[2] };
      case "dropped":
        delayed.inc({ outcome: "dropped" });
        return { kind: "dropped", reason: reply[1] };
      case "early":
        return {
          ...{ kind: "early", dueMs: Number(reply[1]), version: Number(reply[2]) },
          leftMs: Number(reply[1]) - nowMs,
        };
      case "ended":
        return { kind: "ended", state: ENDED[reply[1]] };
      case "missing":
        return { kind: "missing" };
      case "failed":
        return { kind: "failed", error: reply[1] };
    }
  }
}
