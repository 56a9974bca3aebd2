/**
 * The Redis consumer group behind a concurrent group. Every seek makes a new one, under a new name, so that nothing of the old
 * one can be acked, renewed or read any more: Redis answers NOGROUP, whoever asks.
 *
 *   g  ──seek──►  g#1  ──seek──►  g#2          the number is the generation, kept in the groups' hash of each partition
 */

import type { GroupMode, QueueContext } from "./consumer.ts";

/** What is known of a group in one partition. */
export interface Registration {
  readonly mode: GroupMode;
  /** Seeks of a concurrent group so far. */
  readonly generation: number;
}

/** `<mode> <created ms> <generation>`, the last missing before the first seek. */
export function parseRegistration(text: string): Registration {
  const [mode, , generation = "0"] = text.split(" ");
  return { mode: mode as GroupMode, generation: Number(generation) };
}

/** No group's own name holds a `#`. */
export function streamGroupOf(group: string, generation: number): string {
  return generation === 0 ? group : `${group}#${generation}`;
}

/** By partition; undefined where the group is not registered. One small command each; throws Redis errors. */
export function registrationsOf(
  { keys, redis }: QueueContext,
  topic: string,
  group: string,
): Promise<(Registration | undefined)[]> {
  return Promise.all(
    Array.from({ length: keys.partitions }, async (_, partition) => {
      const text = await redis.commands.hget(keys.groups(topic, partition), group);
      return text === null ? undefined : parseRegistration(text);
    }),
  );
}
