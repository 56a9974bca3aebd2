/** The chat's parts, put together once: what logic's methods are made of. */

import type { Clock } from "../clock.ts";
import type { Metrics } from "../observability/index.ts";
import type { Keys, RedisClient } from "../redis/index.ts";
import { createAmendments } from "./amend.ts";
import { createBlocks } from "./blocks.ts";
import { createChannels } from "./channels.ts";
import { createCommitter } from "./commit.ts";
import { createConversations } from "./conversations.ts";
import { createDevices } from "./devices.ts";
import { createHidden } from "./hidden.ts";
import { createInbox } from "./inbox.ts";
import { createMutes } from "./mutes.ts";
import { createNotifier } from "./notify.ts";
import { createPresence } from "./presence.ts";
import { createPushDevices } from "./push-devices.ts";
import { createReminders } from "./reminders.ts";
import { createReview, type Judge } from "./review.ts";
import { createRoom } from "./room.ts";
import { createRouteCache } from "./routes.ts";
import { createScheduled } from "./scheduled.ts";
import { createTimeline, type ReadArchive } from "./timeline.ts";

export interface ChatParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Replicas that must hold a send before it is acknowledged; 0 below `replicated`. */
  readonly replicas: number;
  /** Makes room in a full partition of im.events, or throws RATE_LIMITED. */
  readonly makeRoom: (partition: number) => Promise<void>;
  /** Events that a partition may hold; by default what the topic says. */
  readonly eventsMax?: number;
  /** How long a sender may recall. */
  readonly recallMs: number;
  readonly readArchive: ReadArchive;
  /** Whether a user was erased: then nobody takes him in, and nobody watches him. Left out: nobody was. */
  readonly isErased?: (user: string) => Promise<boolean>;
  /** Decides on what is about to be said; left out: all passes. */
  readonly judge?: Judge;
}

export type Chat = ReturnType<typeof createChat>;

export function createChat(given: ChatParts) {
  const { replicas, makeRoom, eventsMax, recallMs, readArchive, judge, isErased, ...parts } = given;
  const { redis, keys, clock } = parts;
  const room = createRoom({ keys, makeRoom, eventsMax });
  const channels = createChannels(redis, keys);
  const inbox = createInbox(redis, keys, channels);
  const conversations = createConversations({ ...parts, inbox, channels, room, isErased });
  const timeline = createTimeline(redis, keys, readArchive);
  const blocks = createBlocks(redis, keys, clock);
  const committer = createCommitter({ ...parts, replicas, room });
  const routes = createRouteCache(redis, keys, () => undefined);
  const notifier = createNotifier(redis, keys, routes);
  const pushDevices = createPushDevices(redis, keys, clock);
  return {
    ...parts,
    replicas,
    room,
    channels,
    inbox,
    conversations,
    timeline,
    blocks,
    committer,
    review: createReview(judge),
    amendments: createAmendments({ ...parts, conversations, timeline, room, recallMs }),
    hidden: createHidden({ ...parts, conversations, timeline }),
    mutes: createMutes({ ...parts, conversations }),
    presence: createPresence(redis, keys, clock, blocks, isErased),
    pushDevices,
    devices: createDevices(redis, keys, pushDevices),
    notifier,
    reminders: createReminders({ ...parts, conversations, notifier }),
    scheduled: createScheduled({ ...parts, committer, conversations, notifier }),
  };
}
