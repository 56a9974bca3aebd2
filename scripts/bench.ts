/** `bun run bench <what>`: set-up, then the measurement (bench/main.ts). Nothing is imported from packages before they are installed. */

import { runWithSetUp } from "./setup.ts";

await runWithSetUp(new URL("./bench/main.ts", import.meta.url).pathname, { redis: true });
