/** `bun run chaos <campaign>`: set-up, then the campaign (chaos/main.ts). Nothing is imported from packages before they are installed. */

import { runWithSetUp } from "./setup.ts";

await runWithSetUp(new URL("./chaos/main.ts", import.meta.url).pathname, { redis: true });
