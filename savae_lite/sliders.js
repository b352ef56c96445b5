// A figure whose sliders choose among pictures that were drawn beforehand: no kernel, no library, no network.
// The data come as an argument, for some notebooks run a script apart from the elements that it stands beside.
function startSliders({ id, labels, choices, pictures, lines }) {
  for (const figure of document.querySelectorAll(`figure[data-sliders="${id}"]`)) {
    if (figure.started) continue; // the same figure may stand on a page twice
    figure.started = true;
    const image = figure.querySelector("img");
    const line = figure.querySelector(".sliders-line");
    const controls = figure.querySelector(".sliders-controls");
    const inputs = [...controls.querySelectorAll("input")];
    const outputs = [...controls.querySelectorAll("output")];

    const show = () => {
      let number = 0; // of the picture: the last axis runs fastest
      inputs.forEach((input, axis) => {
        const choice = choices[axis][input.value];
        number = number * choices[axis].length + Number(input.value);
        outputs[axis].textContent = choice;
        input.setAttribute("aria-valuetext", `${labels[axis]} = ${choice}`);
      });
      image.src = `data:image/png;base64,${pictures[number]}`;
      image.alt = line.textContent = lines[number];
    };

    // Every line, unseen, in one place with the shown one: it keeps the height of the longest, and nothing jumps.
    for (const text of lines) {
      const room = document.createElement("p");
      room.setAttribute("aria-hidden", "true");
      room.textContent = text;
      line.after(room);
    }
    controls.addEventListener("input", show);
    controls.addEventListener("keydown", (event) => event.stopPropagation()); // JupyterLab takes the arrow keys
    controls.hidden = false;
    show();
  }
}
