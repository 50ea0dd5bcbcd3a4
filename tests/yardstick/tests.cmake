find_package(Python3 REQUIRED COMPONENTS Interpreter)
# Training to a figure is for optimised builds; under sanitisers only the small ones.
set(cases a9a dna interactions)
if(NOT EBB_SANITIZE)
  list(APPEND cases fashion)
endif()
foreach(case ${cases})
  add_test(NAME yardstick.accuracy.${case} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/accuracy.py ${case})
  set_tests_properties(yardstick.accuracy.${case} PROPERTIES LABELS yardstick TIMEOUT 900 SKIP_RETURN_CODE 77 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>")
endforeach()
