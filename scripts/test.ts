/** `bun run test [files]`: set-up, then the tests. They start their own Redis servers, whatever SKEIN_REDIS_URL says. */

import { run, setUpOrExit } from "./setup.ts";

/** Tests wait by `eventually` for at most 5 s; only one that hangs comes near this. */
const TEST_TIMEOUT_MS = 30_000;

await setUpOrExit({ redis: true });
process.exit(await run([process.execPath, "test", "--timeout", String(TEST_TIMEOUT_MS), ...process.argv.slice(2)]));
