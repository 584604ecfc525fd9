const planets = await (await fetch("/api/planets")).json();
const longest = Math.max(...planets.map((planet) => Math.log(planet.days)));

document.querySelector("#planets").replaceChildren(
  ...planets.map(({ name, days, moons }) => {
    const row = document.createElement("li");
    row.style.setProperty("--share", Math.log(days) / longest);
    row.textContent = `${name}: ${days.toLocaleString("en")} days, ${moons} moons`;
    return row;
  }),
);
