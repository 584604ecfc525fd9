// The site's API. Only /api/* comes here (`run_worker_first`); pages, styles and the 404 page are
// served from `public` before any JavaScript runs.

const PLANETS = [
  { name: "Mercury", days: 87.97, moons: 0 },
  { name: "Venus", days: 224.7, moons: 0 },
  { name: "Earth", days: 365.26, moons: 1 },
  { name: "Mars", days: 686.98, moons: 2 },
  { name: "Jupiter", days: 4332.59, moons: 97 },
  { name: "Saturn", days: 10759.22, moons: 274 },
  { name: "Uranus", days: 30688.5, moons: 29 },
  { name: "Neptune", days: 60195, moons: 16 },
];

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (request.method !== "GET") return Response.json({ error: "only GET" }, { status: 405 });

    if (pathname === "/api/planets") return Response.json(PLANETS);

    const name = pathname.match(/^\/api\/planets\/([a-z]+)$/)?.[1];
    const planet = PLANETS.find((planet) => planet.name.toLowerCase() === name);
    if (planet) return Response.json(planet);

    if (pathname.startsWith("/api/")) {
      return Response.json({ error: `nothing at ${pathname}` }, { status: 404 });
    }
    return env.ASSETS.fetch(request);
  },
};
