/**
 * `bench archive`: a store of lib/archive alone, without the RPC before it, filled with months of chat; then pages of history at any
 * depth and searches, one after another. A call waits for those before it: the archive has one thread.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openArchive } from "../../lib/archive/index.ts";
import { createPast, readLines } from "./archive-past.ts";
import { type ArchiveBench, benchFill, benchHistory, benchSearch } from "./archive-sections.ts";
import { type Hardware, printHardware, readHardware } from "./hardware.ts";
import { createReport, type Figure } from "./report.ts";

export interface ArchiveBenchOptions {
  readonly messages: number;
  /** Chat logs (scripts/replay/parse.ts) whose lines are said; none: made-up ones. */
  readonly logs: readonly string[];
  /** An empty PostgreSQL database, which is filled and left; undefined: SQLite in a temporary folder. */
  readonly url: string | undefined;
  /** Calls measured of each kind. */
  readonly calls: number;
  readonly print: (line: string) => void;
}

export async function benchArchive(
  options: ArchiveBenchOptions,
): Promise<{ readonly hardware: Hardware; readonly figures: readonly Figure[] }> {
  const { messages, logs, calls, print } = options;
  const report = createReport(print);
  const hardware = await readHardware();
  printHardware(hardware, print);
  const past = createPast(messages, await readLines(logs));
  const folder = mkdtempSync(join(tmpdir(), "skein-bench-archive-"));
  try {
    const url = options.url ?? `sqlite://${join(folder, "archive.db")}`;
    const bench: ArchiveBench = { report, url, past, calls };
    await benchFill(bench);
    // Opened anew: nothing of the filling is in its cache.
    const store = await openArchive(url);
    await benchHistory(bench, store);
    await benchSearch(bench, store);
    await store.close();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return { hardware, figures: report.figures };
}
