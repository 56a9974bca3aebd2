/**
 * `bun run test [files]`: set-up, then the tests. They start their own Redis servers, whatever SKEIN_REDIS_URL says, one for each
 * file: four files run at once, for tests mostly wait (bunfig.toml names the files whose own tests run at once, too).
 */

import { run, setUpOrExit } from "./setup.ts";

/** Tests wait by `eventually` for at most 20 s; only one that hangs comes near this. */
const TEST_TIMEOUT_MS = 120_000;

const FILES_AT_ONCE = 4;
/** Of a file in bunfig.toml's list. More of them wait for each other's turns of the event loop, and for their own deadlines. */
const TESTS_AT_ONCE = 6;

await setUpOrExit({ redis: true, postgres: true });
const options = [
  "--timeout",
  String(TEST_TIMEOUT_MS),
  `--parallel=${FILES_AT_ONCE}`,
  `--max-concurrency=${TESTS_AT_ONCE}`,
];
process.exit(await run([process.execPath, "test", ...options, ...process.argv.slice(2)]));
