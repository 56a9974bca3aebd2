/**
 * The group `pusher` of im.push: who is to be told, and when. From a message that nobody may have seen to a push for each
 * device of who has not; devices.ts sends it.
 *
 *   requested, unseen ─► a burst per user and conversation ─► due ─► look ─► device, device, … ─► devices.ts
 *                        (lib/im/bursts.ts: 1 s, 15 s)                        ▲
 *   notice ───────────────────────────────────────────────────────────────────┘  at once
 *
 * Every arrow is a message of the queue, every step may be repeated: whoever dies is followed by one who does the same again,
 * at worst with the same notification under the same id. Nothing here waits for the outside.
 */

import type { Clock } from "../../lib/clock.ts";
import {
  createBursts,
  createRouteCache,
  type DevicePush,
  imPush,
  type PushDevices,
  type PushDue,
  type PushNotice,
  type PushRequest,
} from "../../lib/im/index.ts";
import { type DeliveryContext, type PublishInput, type Queue, RETRY_LADDER_SHORT_MS } from "../../lib/mq/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";
import type { Look } from "./look.ts";

/** What comes within it is one push: ten messages in a row are one vibration. Nobody who is away notices a second. */
const GATHER_MS = 1_000;
/** Who is connected has so long to read on the device that he looks at (design.md §7). */
const UNSEEN_MS = 15_000;
/** After a day a notification is of no use, here or at the provider. */
const TTL_MS = 24 * 3_600_000;
/** Users of one message whose bursts are joined, or devices looked up, at a time. */
const USERS_AT_ONCE = 50;
/** Messages in hand: each may name 500 users. */
const IN_FLIGHT_MAX = 100;
/**
 * After so long without a word from a pusher another takes over what it had in hand: the longest that a push waits for that.
 */
const LEASE_MS = 10_000;

export interface PusherParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly queue: Queue;
  readonly pushDevices: PushDevices;
  readonly look: Look;
}

export function createPusher({ redis, keys, clock, queue, pushDevices, look }: PusherParts): Service {
  const bursts = createBursts(redis, keys, clock);
  const reach = createRouteCache(redis, keys, () => undefined);

  async function gather({ conversation, seq, users, online }: PushRequest): Promise<void> {
    await reach.refresh();
    // Another's refresh may drop what this loads: nothing is awaited between the look that finds all of them and the use.
    for (;;) {
      const missing = users.filter((user) => !reach.has(user));
      if (missing.length === 0) break;
      await reach.load(missing);
    }
    const withPush = users.filter((user) => reach.hasPush(user));
    const waitMs = online ? UNSEEN_MS : GATHER_MS;
    await inChunks(withPush, (user) => bursts.join({ user, conversation, seq }, waitMs));
  }

  async function end({ user, conversation }: PushDue, burst: string, { commit }: DeliveryContext): Promise<void> {
    const seq = await bursts.close(user, conversation, burst);
    if (seq === undefined) return;
    const told = await look(user, conversation, seq);
    const devices = told ? [...(await pushDevices.of(user)).keys()] : [];
    const publish = devices.map((device) => ({
      topic: imPush,
      input: toDevice(told!.id, { user, device, conversation, seq }),
    }));
    await commit({ publish, writes: [bursts.ended(burst)] });
  }

  async function announce({ users, ...notice }: PushNotice): Promise<void> {
    await inChunks(users, async (user) => {
      const devices = [...(await pushDevices.of(user)).keys()];
      const inputs = devices.map((device) => ({
        ...toDevice(notice.id, { user, device, notice }),
        dedupId: dedupIdOf(notice.id, user, device),
      }));
      await queue.publishMany(imPush, inputs);
    });
  }

  return queue.consume(imPush, {
    group: "pusher",
    mode: "concurrent",
    inFlightMax: IN_FLIGHT_MAX,
    leaseMs: LEASE_MS,
    backoff: RETRY_LADDER_SHORT_MS,
    async handle({ id, data }, context) {
      if ("device" in data) return;
      if ("user" in data) await end(data, id, context);
      else if ("title" in data) await announce(data);
      else await gather(data);
    },
  });

  /** Under the id of what is told, so that its trace shows each device's push. */
  function toDevice(id: string, data: DevicePush): PublishInput<DevicePush> {
    return { type: "im.push.device", tag: "device", id, key: data.user, data, expireAt: clock.now() + TTL_MS };
  }
}

/** A notice that is given out twice is pushed once within the topic's window. Ids of users do not fit into a dedupe id. */
function dedupIdOf(notice: string, user: string, device: string): string {
  return new Bun.CryptoHasher("sha256").update(`${notice}/${user}/${device}`).digest("hex");
}

async function inChunks<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  for (let i = 0; i < items.length; i += USERS_AT_ONCE) {
    await Promise.all(items.slice(i, i + USERS_AT_ONCE).map(act));
  }
}
