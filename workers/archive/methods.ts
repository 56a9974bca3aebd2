/** The table RPC method -> store function, nothing else. */

import type { ArchiveContract, ArchiveStore } from "../../lib/archive/index.ts";
import type { Handlers } from "../../lib/rpc/index.ts";

export function createMethods(store: ArchiveStore): Handlers<ArchiveContract> {
  return {
    history: async (range) => ({ entries: await store.history(range) }),
    search: async (search) => ({ found: await store.search(search) }),
    find: (find) => store.find(find),
    async rewrite({ entries }) {
      await store.rewrite(entries);
      return {};
    },
    scrub: () => store.scrub(),
  };
}
