/** Scheduler: makes delayed messages come, and does what must be done every now and then for all. One is enough; any number may run. */

import type { Worker } from "../context.ts";
import { choresOf } from "./tasks.ts";

export const worker: Worker = {
  role: "scheduler",
  async build({ queue, snapshots }) {
    return [queue.createTimers({ chores: choresOf(queue, snapshots) })];
  },
};
