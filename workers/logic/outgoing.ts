/**
 * What a batch of events has to say, by gateway: frames with those whom they go to, in the form that gateways read
 * (workers/gateway/targets.ts). A list that stands there already is not repeated: in a large group it is longer than the frame.
 */

import { appendFrames } from "../../lib/im/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";

/** Frames in one appended entry: keeps an entry of the largest frames near 1 MB, and one read of the gateway short. */
const FRAMES_PER_ENTRY = 64;

/** A frame without a place in a timeline: never taken for one that was written before. */
export const NO_PLACE = "- 0";

interface Pending {
  readonly entries: string[][];
  list: string;
}

export class Outgoing {
  private readonly byGateway = new Map<string, Pending>();
  /** A frame that follows another must not overtake it. */
  private mustKeepOrder = false;
  frames = 0;

  /** `list`: who it goes to; `except`: a connection's number among them that it does not go to, or "". */
  add(gateway: string, place: string, list: string, frame: string, except = ""): void {
    let pending = this.byGateway.get(gateway);
    if (!pending) {
      pending = { entries: [], list: "" };
      this.byGateway.set(gateway, pending);
    }
    let entry = pending.entries.at(-1);
    if (!entry || entry.length === 2 * FRAMES_PER_ENTRY) {
      entry = [];
      pending.entries.push(entry);
      pending.list = "";
    }
    const shown = list === pending.list ? "=" : list;
    pending.list = list;
    entry.push(`${place} ${shown}${except === "" ? "" : `!${except}`}`, frame);
    this.frames += 1;
  }

  keepOrder(): void {
    this.mustKeepOrder = true;
  }

  /** Appends all of it; `onGone` hears of each gateway that is no more. */
  async append(redis: RedisClient, keys: Keys, onGone: (gateway: string) => Promise<void>): Promise<void> {
    const send = async (gateway: string, { entries }: Pending) => {
      const appended = this.mustKeepOrder
        ? await inTurn(entries, (entry) => appendFrames(redis, keys, gateway, entry))
        : await Promise.all(entries.map((entry) => appendFrames(redis, keys, gateway, entry)));
      if (appended.includes(false)) await onGone(gateway);
    };
    await Promise.all([...this.byGateway].map(([gateway, pending]) => send(gateway, pending)));
  }
}

async function inTurn<T, R>(items: readonly T[], act: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const item of items) results.push(await act(item));
  return results;
}
