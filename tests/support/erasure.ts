/** Erasures over the shared test Redis, without a process around them. */

import {
  createBroadcasts,
  createErasures,
  type ErasableArchive,
  type ErasureReport,
  type ErasureRunnerParts,
  imUsers,
  runErasures,
} from "../../lib/im/index.ts";
import type { Queue } from "../../lib/mq/index.ts";
import { eventually } from "./eventually.ts";
import type { Chat } from "./im.ts";

export const emptyArchive: ErasableArchive = {
  find: async () => ({ records: [], parts: [] }),
  rewrite: async () => ({}),
  scrub: async () => ({ more: false }),
};

export const erasuresOf = ({ redis, keys }: Pick<Chat, "redis" | "keys">) =>
  createErasures({ redis, keys, secret: new Uint8Array(32) });

export function eraserOf(chat: Chat, queue: Queue, changes: Partial<ErasureRunnerParts> = {}) {
  const erasures = erasuresOf(chat);
  const parts: ErasureRunnerParts = {
    ...chat,
    broadcasts: createBroadcasts(chat.redis, chat.keys, chat.clock),
    expunge: queue.expunge,
    archive: emptyArchive,
    tell: (user, dedupId, at) =>
      queue.publish(imUsers, { type: "im.user.erased", key: user, dedupId, data: { user, at } }),
    onFailure: () => undefined,
    ...changes,
  };
  /** A pass of everything that is due. What fails is part of the test. */
  const pass = (signal = new AbortController().signal) => runErasures(parts, signal).catch(() => undefined);
  return {
    erasures,
    pass,
    /** Until it is done. */
    async erase(user: string): Promise<ErasureReport> {
      await erasures.begin(user);
      await eventually(async () => {
        await pass();
        expectDone(await erasures.report(user));
      });
      return (await erasures.report(user))!;
    },
  };
}

function expectDone(report: ErasureReport | undefined): void {
  if (report?.state !== "done") throw new Error(`not done: ${JSON.stringify(report)}`);
}
