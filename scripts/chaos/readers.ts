/** What readers find when a run is over: whole timelines by the public API, over new connections. */

import { createApi, inParallel } from "../load/api.ts";
import type { PlannedConversation } from "./evidence.ts";
import type { SeenMessage } from "./verdict.ts";

/** The API's own limit of a page. */
const PAGE = 200;

export type Timelines = Map<string, readonly SeenMessage[]>;

/**
 * The history of every conversation as its member number `reader` sees it through the gateway at `url`: hot window and archive, as a
 * client gets it.
 */
export async function readHistories(
  options: { readonly url: string; readonly serviceKey: string; readonly reader: number },
  conversations: readonly PlannedConversation[],
): Promise<Timelines> {
  const api = createApi(options);
  const timelines = await inParallel(conversations, async ({ id, members }) => {
    const by = members[options.reader % members.length]!;
    const seen: SeenMessage[] = [];
    for (let after = 0; ; ) {
      const { messages, more } = await api.history(by, id, after, PAGE);
      for (const message of messages) {
        seen.push({ seq: message.seq, id: message.id, from: message.from, text: message.body.text });
      }
      if (!more) return seen;
      const last = messages.at(-1);
      if (!last) throw new Error(`history of ${id} after ${after} says that there is more and gives nothing`);
      after = last.seq;
    }
  });
  return new Map(conversations.map(({ id }, index) => [id, timelines[index]!]));
}
