/**
 * Room in im.events. A full partition refuses what would append to it, for an event is never dropped and the topic never grows
 * without end; first it is trimmed of what all groups have finished.
 */

import { backlogOfPartition, topicIsFull } from "../mq/index.ts";
import type { Keys } from "../redis/index.ts";
import { imEvents } from "./topics.ts";

/** What a script answers instead of writing (im-state.lua). */
const FULL = "EVENTS_FULL";

export interface Room {
  /** Where a partition's events go: keys and argument of each script that appends one. */
  at(partition: number): { readonly events: string; readonly eventGroups: string; readonly eventsMax: number };
  /** The same of a conversation's. */
  of(conversation: string): ReturnType<Room["at"]>;
  /** Trims the partition of what its groups have finished. */
  make(partition: number): Promise<void>;
  /** Runs a script that may answer EVENTS_FULL; once more after room was made. Throws RATE_LIMITED when there is none. */
  run<R>(conversation: string, script: () => Promise<R>): Promise<R>;
}

export interface RoomParts {
  readonly keys: Keys;
  readonly makeRoom: (partition: number) => Promise<void>;
  /** Entries at which a partition is full; default: what the topic declares. */
  readonly eventsMax?: number | undefined;
}

export function createRoom({ keys, makeRoom, eventsMax }: RoomParts): Room {
  const max = eventsMax ?? backlogOfPartition(imEvents, keys.partitions);
  const at = (partition: number) => ({
    events: keys.topic(imEvents.name, partition),
    eventGroups: keys.groups(imEvents.name, partition),
    eventsMax: max,
  });
  return {
    at,
    of: (conversation) => at(keys.partitionOf(conversation)),
    make: makeRoom,
    async run(conversation, script) {
      const reply = await script();
      if (reply !== FULL) return reply;
      await makeRoom(keys.partitionOf(conversation));
      const again = await script();
      if (again === FULL) throw topicIsFull(imEvents);
      return again;
    },
  };
}
