from __future__ import annotations

from abc import ABC, abstractmethod

from refrag_components.subclasses import concrete_classes


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


class Round(Shape):
    """Has no area yet."""


class Circle(Round):
    def area(self) -> float:
        return 3.0


class Square(Shape):
    def area(self) -> float:
        return 1.0


class Wheel(Circle):
    """Is a circle too."""


def test_classes_of_which_objects_can_be_made_are_found_as_they_are_defined() -> None:
    assert concrete_classes(Shape) == [Circle, Wheel, Square]
    assert concrete_classes(Square) == []
