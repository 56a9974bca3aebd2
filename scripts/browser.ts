/** `bun run browser`: set-up, then the client library's page in a real browser (browser/main.ts). Not part of CI, which has no Chromium. */

import { runWithSetUp } from "./setup.ts";

await runWithSetUp(new URL("./browser/main.ts", import.meta.url).pathname, { redis: true });
