/** Archive: keeps every timeline entry in SQL, serves history by RPC, and tells logic what may leave the hot window. */

import { archiveContract, openArchive } from "../../lib/archive/index.ts";
import { createService } from "../../lib/service.ts";
import type { Worker } from "../context.ts";
import { createAnnouncer } from "./announce.ts";
import { createExpiry } from "./expire.ts";
import { createIngest } from "./ingest.ts";
import { createMethods } from "./methods.ts";

export const worker: Worker = {
  role: "archive",
  async build({ config, clock, log, metrics, queue, rpc }) {
    const store = await openArchive(config.archiveUrl);
    const announcer = createAnnouncer({ store, queue, clock, log });
    return [
      createService("archive store", async () => undefined, store.close),
      rpc.serve(archiveContract, createMethods(store)),
      announcer.service,
      ...(config.archiveDays > 0 ? [createExpiry({ store, queue, clock, log, days: config.archiveDays })] : []),
      createIngest({ store, queue, clock, log, metrics, onWritten: announcer.consider }),
    ];
  },
};
