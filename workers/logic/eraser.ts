/** Runs the erasures of users that are under way: a pass of each that is due, about once a second. */

import type { ArchiveContract } from "../../lib/archive/index.ts";
import { type Chat, createBroadcasts, imUsers, runErasures } from "../../lib/im/index.ts";
import type { Queue } from "../../lib/mq/index.ts";
import type { Log } from "../../lib/observability/index.ts";
import type { Client } from "../../lib/rpc/index.ts";
import { createRepeating, type Service } from "../../lib/service.ts";

/** What an erasure waits for is mostly done within a second: groups read, sockets close. */
const LOOK_EVERY_MS = 500;
/** One page of the archive, or one step of its scrubbing, on a slow disk. */
const ARCHIVE_TIMEOUT_MS = 15_000;

interface EraserParts {
  readonly chat: Chat;
  readonly queue: Queue;
  readonly archive: Pick<Client<ArchiveContract>, "find" | "rewrite" | "scrub">;
  readonly log: Log;
}

export function createEraser({ chat, queue, archive, log }: EraserParts): Service {
  const within = { timeoutMs: ARCHIVE_TIMEOUT_MS };
  const parts = {
    ...chat,
    expunge: queue.expunge,
    broadcasts: createBroadcasts(chat.redis, chat.keys, chat.clock),
    archive: {
      find: (input: Parameters<typeof archive.find>[0]) => archive.find(input, within),
      rewrite: (input: Parameters<typeof archive.rewrite>[0]) => archive.rewrite(input, within),
      scrub: () => archive.scrub({}, within),
    },
    tell: (user: string, dedupId: string, at: number) =>
      queue.publish(imUsers, { type: "im.user.erased", key: user, dedupId, data: { user, at } }),
    onFailure: (error: unknown) => log.warn({ error }, "a pass of an erasure failed, the next one goes on"),
  };
  return createRepeating("erasures", {
    clock: chat.clock,
    everyMs: LOOK_EVERY_MS,
    act: (signal) => runErasures(parts, signal),
    report: (error) => log.debug({ error }, "erasures were not looked after"),
  });
}
