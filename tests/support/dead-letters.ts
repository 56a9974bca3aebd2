/** Dead letters planted at chosen moments, as mq_bury writes them, for tests that need more of them than failing handlers give. */

import type { TestQueue } from "./queue.ts";

export interface PlantedLetter {
  readonly group?: string;
  readonly partition: number;
  /** Its place in the stream of dead letters. */
  readonly at: string;
  readonly key?: string;
  readonly n?: number;
  readonly error?: string;
  readonly history?: readonly (readonly [number, string, string])[];
  /** As they stand before a header. */
  readonly attributes?: string;
  readonly type?: string;
  readonly data?: string;
}

/** Plants letters in the order given; ids must rise within a partition. */
export async function plantLetters({ store }: TestQueue, letters: readonly PlantedLetter[]): Promise<void> {
  const { redis, keys } = store;
  for (let first = 0; first < letters.length; first += 500) {
    await Promise.all(
      letters.slice(first, first + 500).map((letter) => {
        const { group = "g", partition, at, key = "k", n = 0, error = "Error: no", attributes = "" } = letter;
        const history = letter.history ?? [[1, "m", error]];
        const fields = {
          i: `id-${n}`,
          t: letter.type ?? "numbered",
          k: key,
          s: "",
          d: letter.data ?? JSON.stringify({ n }),
          p: "",
          a: attributes,
          entry: `${n + 1}-0`,
          reason: "attempts",
          error,
          attempts: "1",
          first: "1",
          history: JSON.stringify(history),
          member: "m",
        };
        return redis.commands.xadd(keys.deadLetters("t", partition, group), at, ...Object.entries(fields).flat());
      }),
    );
  }
}

/** One key per partition, by partition. */
export function keyOfEach({ store }: TestQueue): string[] {
  const { keys } = store;
  const found: string[] = [];
  for (let i = 0; found.filter(Boolean).length < keys.partitions; i++) found[keys.partitionOf(`k${i}`)] ??= `k${i}`;
  return found;
}
