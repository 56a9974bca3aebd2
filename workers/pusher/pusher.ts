/**
 * The group `pusher` of im.push. From a message that nobody may have seen to a notification on each device of who has not:
 *
 *   requested, unseen ─► a burst per user and conversation ─► due ─► look ─► device, device, …  ─► look ─► provider
 *                         (lib/im/bursts.ts: 1 s, 15 s)                      ▲
 *   notice ──────────────────────────────────────────────────────────────────┘  at once
 *
 * Every arrow is a message of the queue, every step may be repeated: whoever dies is followed by one who does the same again, at worst
 * with the same notification under the same id. A device's push is a message of its own, so it has its own retries, its own
 * dead letter, and no part in the trouble of others. Outcomes are the provider's (provider.ts):
 *
 *   sent      done                                   later     again then (Retry-After, not counted), else by the ladder
 *   gone      the registration is removed            refused   a dead letter at once
 *   expired   our credentials: again at once, then by the ladder
 */

import type { Clock } from "../../lib/clock.ts";
import {
  createBursts,
  createPushDevices,
  createRouteCache,
  type DevicePush,
  imPush,
  type PushDue,
  type PushKind,
  type PushNotice,
  type PushRequest,
} from "../../lib/im/index.ts";
import { Bury, type DeliveryContext, Later, type PublishInput, type Queue } from "../../lib/mq/index.ts";
import type { Metrics } from "../../lib/observability/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";
import type { Look, Told } from "./look.ts";
import type { PushOutcome } from "./provider.ts";
import type { Providers, Target } from "./providers.ts";

/** What comes within it is one push: ten messages in a row are one vibration. Nobody who is away notices a second. */
const GATHER_MS = 1_000;
/** Who is connected has so long to read on the device that he looks at (design.md §7). */
const UNSEEN_MS = 15_000;
/** After a day a notification is of no use, here or at the provider. */
const TTL_MS = 24 * 3_600_000;
/** Users of one message whose bursts are joined, or devices looked up, at a time. */
const USERS_AT_ONCE = 50;
/** A step waits for the outside up to 10 s. Enough for 16 calls each to several push services, and few enough to hold in memory. */
const IN_FLIGHT_MAX = 256;
/** After this long without a word from a pusher another takes over what it had in hand: the longest that a push waits for it. */
const LEASE_MS = 10_000;
/** A provider that asks for no time at all is not asked again at once. */
const RETRY_AFTER_MIN_MS = 100;

export interface PusherParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly queue: Queue;
  readonly metrics: Metrics;
  readonly look: Look;
  readonly providers: Providers;
}

export function createPusher({ redis, keys, clock, queue, metrics, look, providers }: PusherParts): Service {
  const bursts = createBursts(redis, keys, clock);
  const pushDevices = createPushDevices(redis, keys, clock);
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

  async function push(step: DevicePush, expiresAt: number, signal: AbortSignal): Promise<void> {
    const { user, device } = step;
    const registration = (await pushDevices.of(user)).get(device);
    if (!registration) return;
    const told: Told | undefined = "notice" in step ? step.notice : await look(user, step.conversation, step.seq);
    const { kind } = registration.address;
    if (!told) return metrics.pushes.inc({ kind, outcome: "quiet" });
    const target: Target = { user, device, registration };
    const notification = { ...told, expiresAt };
    let outcome = await providers.send(target, notification, signal);
    if (outcome.kind === "expired") outcome = await providers.send(target, notification, signal);
    metrics.pushes.inc({ kind, outcome: outcome.kind });
    if (outcome.kind === "gone") await pushDevices.drop(user, device, registration.id);
    else throwUnlessSent(kind, outcome);
  }

  return queue.consume(imPush, {
    group: "pusher",
    mode: "concurrent",
    inFlightMax: IN_FLIGHT_MAX,
    leaseMs: LEASE_MS,
    handle({ id, data, expireAt }, context) {
      if ("device" in data) return push(data, expireAt ?? clock.now() + TTL_MS, context.signal);
      if ("user" in data) return end(data, id, context);
      return "title" in data ? announce(data) : gather(data);
    },
  });

  /** Under the id of what is told, so that its trace shows each device's push. */
  function toDevice(id: string, data: DevicePush): PublishInput<DevicePush> {
    return { type: "im.push.device", id, key: data.user, data, expireAt: clock.now() + TTL_MS };
  }
}

/** What the queue is to do with what was not sent. */
function throwUnlessSent(kind: PushKind, outcome: PushOutcome): void {
  if (outcome.kind === "refused") throw new Bury(`${kind}: ${outcome.reason}`);
  if (outcome.kind === "expired") throw new Error(`${kind}: our credentials are not taken`);
  if (outcome.kind !== "later") return;
  if (outcome.afterMs !== undefined) throw new Later(Math.max(RETRY_AFTER_MIN_MS, outcome.afterMs));
  throw new Error(`${kind}: the provider has not taken it`);
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
