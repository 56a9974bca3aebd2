/** A thread of its own (sqlite-rewrite.ts): vacuums the database whose path it is told, empties its log, and says so. */

import { Database } from "bun:sqlite";

/** Of a commit that is under way, or a reader of another process. */
const BUSY_TIMEOUT_MS = 10_000;

declare const self: Worker;

self.onmessage = ({ data: path }: MessageEvent<string>) => {
  const database = new Database(path);
  database.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
  database.run("VACUUM");
  // The pages as they were lie in the log until it begins anew.
  const [result] = database.query<{ busy: number }, []>("PRAGMA wal_checkpoint(TRUNCATE)").all();
  database.close();
  if (result?.busy !== 0) throw new Error("the log is in use");
  self.postMessage("done");
};
